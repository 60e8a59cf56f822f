"""Scripts for the maintenance of this project; no part of the package."""
