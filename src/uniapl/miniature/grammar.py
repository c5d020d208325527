"""The language of the miniature: one grammar that both writes sentences and recognises them.

The writer samples from `RULES` with a topic's words; the fluency metric compiles the same rules to
a regular expression. So what the expert may write and what counts as fluent cannot drift apart.
"""

import random
import re
from dataclasses import dataclass
from functools import cache

RULES: dict[str, tuple[str, ...]] = {
    "sentence": (
        "{clause}",
        "{clause}",
        "{opener}[,] {clause}",
        "{clause}[,] {joiner} {clause}",
    ),
    "clause": (
        "{one} {verbs} {place}",
        "{several} {verb} {place}",
        "{one} {is} {quality}",
        "{several} {are} {quality}",
        "{people} {like} {several}",
        "{people} {like} the {topic}",
        "there are {count} {adjective} {nouns} {place}",
    ),
    "one": ("{the} {noun}", "{the} {adjective} {noun}"),
    "several": ("{these} {nouns}", "{these} {adjective} {nouns}"),
    "title": ("the {topic}", "{one}", "{several}"),
    "quality": ("{adjective}", "{adjective} and {adjective}"),
    "the": ("the", "this", "every"),
    "these": ("the", "these", "some", "many"),
    "count": ("some", "many", "three"),
    "is": ("is", "seems"),
    "are": ("are", "seem"),
    "people": ("I", "we", "they"),
    "like": ("like", "love", "remember"),
    "joiner": ("and", "but", "while"),
    "opener": ("In the morning", "At night", "Sometimes", "After the rain", "On most days"),
}
"""Alternatives by symbol: `{symbol}` expands, `[,]` is a comma that may be left out."""

CLOSINGS = (
    "It never gets old.",
    "That says it all.",
    "Nothing else comes close.",
    "It always makes me smile.",
    "What a place to remember.",
)
"""Sentences without a topic; fluent only at the very end of a text, after another sentence."""


@dataclass(frozen=True, slots=True)
class Topic:
    """The words a text about one thing is made of."""

    name: str
    adjectives: tuple[str, ...]
    nouns: tuple[tuple[str, str], ...]
    """Singular and plural."""
    verbs: tuple[str, ...]
    """Intransitive, in the plural form; the singular adds an s."""
    places: tuple[str, ...]

    def terminals(self) -> dict[str, tuple[str, ...]]:
        """Return the alternatives of the symbols that depend on the topic."""
        return {
            "topic": (self.name,),
            "adjective": self.adjectives,
            "noun": tuple(singular for singular, _ in self.nouns),
            "nouns": tuple(plural for _, plural in self.nouns),
            "verb": self.verbs,
            "verbs": tuple(verb + "s" for verb in self.verbs),
            "place": self.places,
        }

    def words(self) -> tuple[str, ...]:
        """Return the words that keyword instructions may name, in a fixed order."""
        parts = self.terminals()
        return tuple(w for s in ("adjective", "noun", "nouns", "verb", "verbs") for w in parts[s])


def _topic(name: str, adjectives: str, nouns: str, verbs: str, places: str) -> Topic:
    pairs = [noun.split("/") for noun in nouns.split()]
    return Topic(
        name=name,
        adjectives=tuple(adjectives.split()),
        nouns=tuple((pair[0], pair[1] if len(pair) > 1 else pair[0] + "s") for pair in pairs),
        verbs=tuple(verbs.split()),
        places=tuple(places.split(", ")),
    )


TOPICS: dict[str, Topic] = {
    topic.name: topic
    for topic in (
        _topic(
            "sea",
            "deep blue salty calm stormy",
            "wave gull boat tide sailor",
            "drift roll rise glide",
            "near the shore, beyond the harbor, along the coast, under the pier",
        ),
        _topic(
            "forest",
            "green tall dark mossy quiet",
            "tree fern owl fox/foxes pine",
            "sway hide wait rest",
            "by the trail, in the shade, behind the cabin, among the roots",
        ),
        _topic(
            "garden",
            "bright fragrant tiny fresh yellow",
            "rose tulip bee seed snail",
            "thrive spread appear return",
            "by the fence, inside the greenhouse, around the fountain, across the lawn",
        ),
        _topic(
            "kitchen",
            "warm spicy sweet crispy golden",
            "soup pie loaf/loaves spoon onion",
            "simmer steam wobble sit",
            "on the stove, beside the oven, at the counter, upon the shelf",
        ),
        _topic(
            "city",
            "busy loud modern crowded narrow",
            "street tower taxi bus/buses cyclist",
            "hum stop gleam turn",
            "around the station, past the museum, over the bridge, behind the theater",
        ),
        _topic(
            "mountain",
            "steep rocky snowy high misty",
            "peak cliff goat eagle climber",
            "stand climb wander shine",
            "above the valley, on the ridge, below the summit, at the camp",
        ),
        _topic(
            "farm",
            "muddy gentle brown hungry plump",
            "cow hen horse tractor pig",
            "graze sleep work eat",
            "in the barn, beside the pond, across the field, outside the stable",
        ),
        _topic(
            "school",
            "clever curious noisy young careful",
            "student teacher lesson book pencil",
            "learn listen help talk",
            "in the classroom, at the desk, down the hallway, inside the library",
        ),
        _topic(
            "desert",
            "dry hot sandy empty dusty",
            "camel dune lizard snake traveler",
            "crawl shift linger bake",
            "under the sun, past the oasis, across the plain, by the canyon",
        ),
        _topic(
            "winter",
            "cold icy white frosty gray",
            "snowflake icicle skater sled mitten",
            "fall freeze sparkle slide",
            "on the ice, by the fireplace, over the rooftop, along the sidewalk",
        ),
        _topic(
            "market",
            "cheap ripe colorful local friendly",
            "basket seller apple stall shopper",
            "gather stay arrive trade",
            "near the gate, in the square, beneath the awning, along the row",
        ),
        _topic(
            "river",
            "clear swift wide shallow cool",
            "otter duck stone canoe turtle",
            "flow swim dive float",
            "toward the dam, by the bank, beneath the willow, over the waterfall",
        ),
    )
}

_SYMBOL = re.compile(r"\{(\w+)\}")
_REPEAT = re.compile(r"\b(\w+) and \1\b")


def sample_sentence(
    rng: random.Random, topic: Topic, *, prefer: str = "", commas: bool = True
) -> str:
    """Draw one sentence; slots that can hold the word `prefer` hold it."""
    rules = RULES | topic.terminals()
    while True:
        words = _expand("sentence", rules, rng, prefer).replace("[,]", "," if commas else "")
        if not _REPEAT.search(words):
            return words[0].upper() + words[1:] + "."


def sample_title(rng: random.Random, topic: Topic) -> str:
    """Draw the words of a title."""
    words = _expand("title", RULES | topic.terminals(), rng, "")
    return words[0].upper() + words[1:]


def is_sentence(text: str, topic: Topic) -> bool:
    """Whether `text`, final mark included, is one sentence of the topic; case is ignored."""
    return bool(_pattern("sentence", topic.name).fullmatch(text)) and not _REPEAT.search(text)


def is_title(text: str, topic: Topic) -> bool:
    """Whether `text` is a title of the topic; case is ignored."""
    return bool(_pattern("title", topic.name).fullmatch(text))


def find_phrase(text: str, topic: Topic) -> re.Match[str] | None:
    """Find the first noun phrase, the part of a sentence that can be highlighted."""
    return _pattern("phrase", topic.name).search(text)


def _expand(symbol: str, rules: dict[str, tuple[str, ...]], rng: random.Random, prefer: str) -> str:
    choices = rules[symbol]
    choice = prefer if prefer in choices else rng.choice(choices)
    return _SYMBOL.sub(lambda match: _expand(match[1], rules, rng, prefer), choice)


@cache
def _pattern(symbol: str, topic_name: str) -> re.Pattern[str]:
    rules = RULES | TOPICS[topic_name].terminals()

    def regex(symbol: str) -> str:
        choices = dict.fromkeys(rules[symbol])
        alternatives = (
            _SYMBOL.sub(lambda m: regex(m[1]), choice.replace("[,]", ",?")) for choice in choices
        )
        return f"(?:{'|'.join(alternatives)})"

    if symbol == "sentence":
        return re.compile(regex("sentence") + r"[.!]", re.IGNORECASE)
    if symbol == "phrase":
        return re.compile(rf"\b(?:{regex('one')}|{regex('several')})\b", re.IGNORECASE)
    return re.compile(regex(symbol), re.IGNORECASE)
