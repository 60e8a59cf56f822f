"""Scripts for the maintenance of this project, which are not part of the package."""
