"""The report of a study: one HTML file that needs nothing else, and its figures and tables on disk.

index.html                      verdicts first, then figures, then everything to check them by
figures/NAME.svg .pdf .png      each figure, the PDF one column wide
tables/NAME.csv .tex            the data of each figure, and the tables
"""
