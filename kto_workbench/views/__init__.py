"""Views: what a run's records show, as numbers, sentences and pictures.

records.py   a run's metrics as columns, read as they grow
curves.py    which curves there are; smoothing; downsampling that keeps peaks
notes.py     what looks wrong in a training, found in its records
figure.py    plot(run): the curves as one matplotlib figure
drawing.py   line charts as SVG
differences.py  what one text says and another does not
report.py    a run as one HTML file
card.py      the model card of an export
learning.py  KTO's value function, DPO's and SFT's beside it

Nothing here imports torch: the page opens at once, holds no GPU memory and survives any crash of a training.
"""
