"""Puts the kernel's own messages into the corpus, for the fuzzer to begin with."""

import pathlib

here = pathlib.Path(__file__).parent
corpus = here / "corpus" / "readers"
corpus.mkdir(parents=True, exist_ok=True)
lines = (here.parent / "nfct/tests/data/messages.hex").read_text().splitlines()
for number, line in enumerate(line for line in lines if not line.startswith("#")):
    (corpus / f"kernel-{number}").write_bytes(bytes.fromhex(line))
