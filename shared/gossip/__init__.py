"""The routing table and its announcements (BOLT 7), as fronts and back see them. Pure.

An announcement is kept as it came: the whole message with its two bytes of type.
"""
