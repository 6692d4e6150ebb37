"""The testbed of series: forecasters fitted to the first part of a series, and streams of what comes after it.

`made` draws synthetic series, `real` reads those that ship with statsmodels, `builder` fits and writes; two files of
`beds` name it.
"""
