"""How bounds pass through each primitive."""
