"""Text that compresses like source code, and bytes that do not compress, both quickly and from a seed.

Owns how the bytes of a corpus look; refuses to know of files. Text is drawn from a table of 65,536 tokens by two random bytes for
each, so that joining is the work of C; a table holds words, phrases that return, and numbers that never do. How often each comes
decides how well a lone file compresses, and how much better many of them do in one stream: the shares below were fitted to the
ratios of real trees (see corpora.py).
"""

import hashlib
import random
from array import array

SYLLABLES = "ba re ti on er st co de al in un pre ex lo mi ra th sh key get set is max buf len id at".split()
JOINTS = [" ", " ", " ", ", ", "(", ") ", ";\n", "_", ".", "::", " = "]
ENDS = ["", "\n", "\n    ", "\n        "]
TABLE_SIZE = 1 << 16
PIECE_BYTES = 4 << 20


def raw(seed, size):
    """`size` bytes that do not compress, always the same for a seed, whatever Python runs this."""
    return hashlib.shake_128(seed.encode()).digest(size)


def word(dice):
    return "".join(dice.choice(SYLLABLES) for _ in range(dice.choice([1, 2, 2, 3, 3, 4])))


class Language:
    """A table of tokens.

    `phrase_share` and `number_share` say how much of the table is phrases of up to `phrase_words` words, and numbers; the rest is
    words. A higher `phrase_skew` makes few phrases come often.
    """

    def __init__(self, seed, words, phrases, phrase_share, number_share, phrase_words, phrase_skew):
        dice = random.Random(seed)
        vocabulary = [word(dice) + dice.choice(JOINTS) for _ in range(words)]
        common = lambda: vocabulary[int(words * dice.random() ** 2.5)]
        idioms = ["".join(common() for _ in range(dice.randint(2, phrase_words))) + dice.choice(ENDS) for _ in range(phrases)]
        table = []
        for _ in range(TABLE_SIZE):
            lot = dice.random()
            if lot < number_share:
                table.append("%x" % dice.getrandbits(dice.choice([8, 16, 24])))
            elif lot < number_share + phrase_share:
                table.append(idioms[int(phrases * dice.random() ** phrase_skew)])
            else:
                table.append(common())
        self.table = [token.encode() for token in table]
        self.mean = sum(map(len, self.table)) / TABLE_SIZE

    def dialect(self, other, share):
        """This language with `share` of its tokens taken from `other`: a project's own words among everybody's."""
        mixed = object.__new__(Language)
        mixed.table = [other.table[at] if at % 100 < share * 100 else self.table[at] for at in range(TABLE_SIZE)]
        mixed.mean = sum(map(len, mixed.table)) / TABLE_SIZE
        return mixed

    def spell(self, tokens):
        return b"".join(map(self.table.__getitem__, tokens))

    def flat(self, seed, size):
        """`size` bytes of text, the same density throughout."""
        tokens = array("H", raw(seed, 2 * (int(size / self.mean * 1.03) + 64)))
        text = self.spell(tokens)
        if len(text) < size:
            text += self.flat(seed + "+", size - len(text))
        return text[:size]

    def stream(self, seed, size):
        """The pieces of a large text, one after another."""
        for at in range(0, size, PIECE_BYTES):
            yield self.flat(f"{seed}@{at}", min(PIECE_BYTES, size - at))

    def file(self, seed, size, echo, dice):
        """A small file that repeats itself: after a run of tokens, with odds that grow with `echo`, some of its earlier ones again."""
        fresh = int(size / self.mean * (1 - echo)) + 4
        drawn = array("H", raw(seed, 2 * fresh))
        tokens = array("H")
        at = 0
        while at < fresh:
            step = int(8 + dice.random() * 23)
            tokens.extend(drawn[at : at + step])
            at += step
            if dice.random() < echo * 1.4:
                back = int(dice.random() * max(1, at - 10))
                tokens.extend(drawn[back : back + int(4 + dice.random() * 13)])
        text = self.spell(tokens)
        if len(text) < size:
            text += self.flat(seed + "+", size - len(text))
        return text[:size]
