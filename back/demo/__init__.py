"""The main job, played out on one machine: ``squall demo``.

:mod:`.process` starts real processes that never outlive us; :mod:`.cluster` puts a broker, a back
and fronts together as one node; :mod:`.play` is the demo itself. Tests use the first two as well.
"""
