"""params.yaml as nobody should write it, and as it happens: by what is wrong with each."""

from __future__ import annotations


def laughs(alias: str, levels: int) -> str:
    """Each level stands for nine of the one before it."""
    lines = ["a0: &a0 {x: 1}"]
    for level in range(1, levels + 1):
        nine = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} {alias.format(nine)}")
    return "\n".join(lines)


# What the file holds, and a part of the line that is said of it.
REFUSED: dict[str, tuple[str | bytes, str]] = {
    "aliases of aliases": (laughs("[{}]", 9), "holds more than 10,000 values"),
    "merged aliases of aliases": (laughs("{{<<: [{}]}}", 9), "holds more than 10,000 values"),
    "an alias of itself": ("train: &a {epochs: *a}\n", "nested more than 32 levels"),
    "a merge of itself": ("train: &a {<<: *a}\n", "nested more than 32 levels"),
    "all within itself": ("&a\ntrain: *a\n", "nested more than 32 levels"),
    "an unknown alias": ("seed: *nothing\n", "found undefined alias"),
    "lists in lists": ("seed: " + "[" * 60_000, "nested more than 32 levels"),
    "lists in lists, spaced": ("seed: " + "[a, " * 15_000, "nested more than 32 levels"),
    "lists in lists, by lines": ("seed: " + "[\n" * 30_000, "nested more than 32 levels"),
    "mappings in mappings": (
        "".join(" " * i + "a:\n" for i in range(300)),
        "nested more than 32 levels",
    ),
    "many keys": ("".join(f"k{i}: 1\n" for i in range(1000)), "and 980 more"),
    "many wrong values": (
        f"sample: {{grid: {{top_k: [{'x, ' * 5000}]}}}}\n",
        "sample.grid.top_k[0]: input should be a valid integer",
    ),
    "a number of 5,000 digits": (f"seed: {'9' * 5000}\n", "not valid YAML"),
    "a long hexadecimal number": (f"seed: 0x{'f' * 5000}\n", "seed: a number of 20,000 bits"),
    "a number of 4,000 digits": (f"seed: {'9' * 4000}\n", "seed: "),
    "a text of 60,000 characters": (f"tracking: {{experiment: {'x' * 60_000}}}\n", "…"),
    "a key of 60,000 characters": (f"? {'k' * 60_000}\n: 1\n", "unknown key"),
    "a megabyte": ("# comment\n" * 100_000, "larger than 64 KiB"),
    "a date": ("seed: 2024-01-31\n", "seed: datetime.date(2024, 1, 31) is a date"),
    "a date that is none": ("seed: 2024-13-45\n", "month must be in 1..12"),
    "the year zero": ("seed: 0000-00-00\n", "not valid YAML"),
    "a key that is a number": ("1: 2\n", "the key 1 is not text"),
    "a key that is a list": ("? [a]\n: 1\n", "is not text"),
    "a key that is a mapping": ("? {a: 1}\n: 1\n", "not valid YAML"),
    "a tag of Python's": ("seed: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
    "a tag of nobody's": ("seed: !x 1\n", "not valid YAML"),
    "no integer": ('seed: !!int ""\n', "not valid YAML"),
    "no truth": ("seed: !!bool perhaps\n", "not valid YAML"),
    "no number": ("seed: !!float many\n", "not valid YAML"),
    "bytes": ("seed: !!binary YWJj\n", "is a bytes"),
    "a set": ("gpt2: {sizes: !!set {124M}}\n", "is a set"),
    "an escape beyond Unicode": ('seed: "\\UFFFFFFFF"\n', "not valid YAML"),
    "half a surrogate pair": ('prepare: {corpus: "\\ud800"}\n', "holds what is no character"),
    "a NUL that is escaped": ('prepare: {corpus: "a\\0b"}\n', "holds what is no character"),
    "a NUL": ("seed: 1\0\n", "not valid YAML"),
    "a tab": ("train:\n\tepochs: 1\n", "not valid YAML"),
    "UTF-16": ("seed: 1\n".encode("utf-16"), "not UTF-8 text"),
    "a key twice": ("seed: 1\nseed: 2\n", 'found duplicate key "seed"'),
    "minutes and seconds": ("seed: 1:30\n", "seed: input should be a valid integer, not '1:30'"),
    "infinity": ("train: {learning_rate: .inf}\n", "should be a finite number, not inf"),
    "too large for a double": ("train: {learning_rate: 1e400}\n", "should be a finite number"),
    "no number at all": ("sample: {temperature: .nan}\n", "should be a finite number, not nan"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "expected a single document"),
    "nothing": ("", "must hold sections such as `train:`, not None"),
    "a text": ("hello\n", "must hold sections such as `train:`, not 'hello'"),
    "a section that is null": ("train:\n", "train: "),
    "sizes that are null": ("gpt2: {sizes: null}\n", "gpt2.sizes: "),
    "sizes that are a text": ("gpt2: {sizes: 124M}\n", "gpt2.sizes: "),
    "a size that leads elsewhere": ("gpt2: {sizes: [../x]}\n", "gpt2.sizes[0]: "),
    "a size that is a command": (
        'gpt2: {sizes: ["124M; touch X #"]}\n',
        "gpt2.sizes[0]: ",
    ),
    "sizes in sizes": ("gpt2: {sizes: [[124M]]}\n", "gpt2.sizes[0]: "),
    "a size with a command in its key": (
        'gpt2: {sizes: [{"x; touch X #": 1}]}\n',
        "gpt2.sizes[0]: ",
    ),
    "what a terminal obeys": ('"\\e[2Jtrain": 1\n', "\\x1b[2Jtrain: unknown key"),
}
# Unusual, and right.
ACCEPTED = {
    "a byte order mark": "\ufeffseed: 15\n",
    "octal": "seed: 0o17\n",
    "hexadecimal": "seed: 0xf\n",
    "a shared list": "seed: 15\nsample: {prompts: &p [a, b]}\ncompare: {prompts: *p}\n",
    "a merge": "seed: 15\nevaluate: &e {batch_size: 3}\ntrain: {<<: *e, epochs: 1}\n",
    "Windows' line ends": "seed: 15\r\ntrain:\r\n  epochs: 1\r\n",
    "a version": "%YAML 1.2\n---\nseed: 15\n",
    "brackets in a text": f"seed: 15\nsample: {{prompts: ['{'[' * 30}']}}\n",
}
