"""The embedded corpus: espeak-ng speech and simulated listeners, written in a real corpus's own format."""

from perser.corpora.synthetic.generate import load, synthesise

__all__ = ["load", "synthesise"]
