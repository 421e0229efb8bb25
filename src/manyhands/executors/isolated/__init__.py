"""Executors behind a wall: one guest program, one host side, and several walls to put between them."""
