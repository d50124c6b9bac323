"""
What the package costs, measured. See README.md beside this file.
"""
