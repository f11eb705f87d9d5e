"""Fixtures that all tests share."""

import os

import pytest


@pytest.fixture(autouse=True)
def _environment():
    """What a test leaves in the environment would reach the processes that later tests start."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def crew():
    """Four processes of one group, that stay."""
    from crew import Crew

    crew = Crew(4)
    yield crew
    crew.close()


@pytest.fixture(scope="module")
def on_the_reference(crew):
    """Here and in the crew the specification attends: what is tested is what travels."""
    from parallel_model_jobs import on_the_reference

    for on in (True, False):
        crew(on_the_reference, on)
        on_the_reference(on)
        if on:
            yield


@pytest.fixture
def refused_by():
    """``with refused_by(file, fragment) as said`` gives a message, all of whose code must be carried out."""
    import remedies  # of no concern to other tests, some of which run without its packages

    opened = []

    def refused_by(file, fragment):
        opened.append(remedies.Refused(file, fragment))
        return opened[-1]

    yield refused_by
    for said in opened:
        assert not said.left(), f"not carried out: {said.left()} of: {said.message}"
