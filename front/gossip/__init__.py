"""BOLT 7 at the front: so far only honest answers that we know no channels (``answers``)."""
