"""What is written: laws.json, figures and the page."""
