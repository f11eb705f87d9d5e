"""The three tasks as experiments: settings from files and flags, one folder for each run.

Each module has ``Settings``, ``train(settings, output)`` and ``evaluate(settings, output)``; the command
line is made of them.
"""

#: task → module
TASKS = {
    "shallow-water": "geoattn.tasks.experiments.shallow_water",
    "segmentation": "geoattn.tasks.experiments.segmentation",
    "depth": "geoattn.tasks.experiments.depth",
}
