"""The report of what training did to the weights: a table, one HTML page, and a Parquet file.

index.html                      how large and of what rank dW is, by module, layer and step, each
                                number beside its null; then the figures
figures/NAME.svg .png .pdf      each figure
tables/NAME.csv .tex            the data of each figure, and the tables
weights.parquet                 a row per checkpoint and weight, with its singular values
"""
