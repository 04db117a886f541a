"""DSARA workbook: differentiable search of accurate and robust architectures, step by step.

Nothing is imported here: `import dsara_lib` costs nothing, and every part is a plain module
(`dsara_lib.architecture`, `.attacks`, `.search`, `.training`, `.evaluation`, ...). README.md has the map.
"""

__version__ = "0.1.0"
