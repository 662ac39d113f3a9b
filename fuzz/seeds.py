"""Writes messages from the kernel into the corpus, as the fuzzer's first inputs."""

import pathlib

here = pathlib.Path(__file__).parent
corpus = here / "corpus" / "readers"
corpus.mkdir(parents=True, exist_ok=True)
lines = (here.parent / "nfct/tests/data/messages.hex").read_text().splitlines()
for number, line in enumerate(line for line in lines if not line.startswith("#")):
    (corpus / f"kernel-{number}").write_bytes(bytes.fromhex(line))
