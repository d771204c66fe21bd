"""The calls, by what they are about; a module enters its own when it is imported."""
