"""BLEU, ROUGE-L, CIDEr, METEOR and the PTB tokeniser, in the conventions of the caption evaluation kit."""
