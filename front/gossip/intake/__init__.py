"""From what peers announce to the back's verdict: new, rightly signed, within budget."""
