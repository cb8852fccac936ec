"""Measuring on devices that archsearch does not run on: a folder is carried there, and results are
read back.
"""
