"""What is shown of all four papers together: RESULTS.md and the picture on the front page."""
