"""The OSC server of `segue osc`; README.md has its addresses."""
