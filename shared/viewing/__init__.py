"""The parts of `shared.viewer`: what a paper hands over, the live picture, and the page in the browser."""
