"""Every refusal that names a call has a test in which that call is carried out."""

import pytest
import remedies

REFUSALS = remedies.refusals()

#: refusals whose remedy no test carries out, and why: file → words of the message → reason
PENDING = {
    "backends/cuda/compiler.py": {
        "there is no nvcc on the path; pip install": "tests install nothing",
    },
    "backends/cuda/device.py": {"cuda.bindings cannot be imported": "tests install nothing"},
}


def entries():
    yield from remedies.carried_out()
    yield from ((file, fragment) for file, words in PENDING.items() for fragment in words)


def found(file, fragment):
    return [refusal for refusal in REFUSALS if refusal.file == file and fragment in refusal.text]


def test_every_refusal_that_names_a_call_has_its_remedy_carried_out():
    held = {refusal for entry in entries() for refusal in found(*entry)}
    left = [refusal for refusal in REFUSALS if refusal.names_a_call and refusal not in held]
    assert not left, "\n".join(f"{r.file}:{r.line}: {r.text}" for r in left)


def test_every_entry_is_one_refusal_of_the_sources():
    places = {entry: [refusal.line for refusal in found(*entry)] for entry in entries()}
    assert {entry: lines for entry, lines in places.items() if len(lines) != 1} == {}


def test_refusals_are_found_with_their_words():
    texts = [refusal.text for refusal in REFUSALS]
    assert len(texts) > 400
    assert sum(refusal.names_a_call for refusal in REFUSALS) > 150
    assert any("ga.grids.points(lat, lon, areas=…)" in text for text in texts)
    assert any(text.startswith("radius must be above 0 degrees, got {") for text in texts)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("{name} has {} parts; use ga.grids.gaussian(nlat, nlon)", True),
        ("{name} has parts ({}), and no others", False),
        ("turn it, {what}.isel({dim}=slice(None, None, -1))", True),
        ("read it as {call}[{name}].attrs", True),
        ("the mask is on {}; hide keys with key_mask", True),
        ("key_mask must be bool", False),
        ("steps={self.steps} is no multiple", False),
        ("a number is missing: {remedy}", True),
        ("size {k} exceeds {n}; take boundary=\"clip\"", True),
    ],
)  # fmt: skip
def test_what_names_a_call(words, named):
    assert remedies.Refusal("a.py", 1, words).names_a_call == named


def test_a_remedy_that_fails_or_is_left_out_is_found(refused_by):
    said = remedies.Refused("a.py", "is odd")
    with said:
        raise ValueError("x is odd: double it, 2 * x, or take ga.even(x), or ga.odd(x), and go on")
    assert said.run("2 * x", x=3) == 6
    assert len(said.left()) == 2
    with pytest.raises(AttributeError):
        said.run("ga.even(", x=3)
    said.says("ga.odd(x)")
    assert said.left() == []
    with (
        pytest.raises(AssertionError, match="neither refused nor warned of"),
        remedies.Refused("a.py", "is odd"),
    ):
        pass
    with pytest.raises(AssertionError, match="by other words"), remedies.Refused("a.py", "is odd"):
        raise ValueError("x is even")
