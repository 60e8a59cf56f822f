"""Simulation of runs with a fleet of devices in virtual time, where only training takes real time."""
