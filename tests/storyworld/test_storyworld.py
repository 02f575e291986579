"""StoryWorld: the generator's promises, checked on the surface, and the shipped language model."""

from __future__ import annotations

import json
import math
import os
import random
import re
import subprocess
import sys
from bisect import bisect
from collections import Counter
from itertools import islice

import pytest

from e2e_lib.storyworld import (
    DECOYS,
    LABELS,
    MAX_TOKENS,
    STORYWORLD_FOLDER,
    TOKEN_IDS,
    build_tokenizer,
    choices,
    generate,
    grammar,
    phrases,
    storyworld_dataset,
)
from e2e_lib.storyworld import lexicon as lex
from e2e_lib.storyworld.teller import Choice, Entity, Teller


@pytest.fixture(scope="module")
def stories():
    return list(islice(generate(seed=11), 800))


@pytest.fixture(scope="module")
def texts():
    """Surface only, from a process of its own: run-time type checks would slow it tenfold."""
    code = """if True:
        from itertools import islice
        from e2e_lib.storyworld import generate
        for story in islice(generate(seed=12), 3000):
            print(story.text)
    """
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return out.stdout.splitlines()


# ------------------------------------------------------- the form of stories
def test_same_seed_same_stories():
    first, again, other = (list(islice(generate(seed), 20)) for seed in (5, 5, 6))
    assert first == again
    assert [s.text for s in first] != [s.text for s in other]


def test_stories_do_not_depend_on_the_process():
    code = (
        "from e2e_lib.storyworld import generate; s = next(generate(7)); print(s.text, s.logprob)"
    )
    env = {**os.environ, "PYTHONHASHSEED": "123"}
    out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    story = next(generate(7))
    assert out.stdout.strip() == f"{story.text} {story.logprob}", out.stderr


def test_import_is_light():
    code = "import sys, e2e_lib.storyworld; print({'torch', 'transformers'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == "set()", out.stderr


def test_labels_are_aligned_with_tokens(stories):
    for story in stories[:500]:
        assert set(story.labels) == set(LABELS)
        assert {len(values) for values in story.labels.values()} == {len(story.tokens)}
    decoy_surfaces = {
        form: name for name, word in DECOYS.items() for pair in word.forms for form in pair
    }
    singular, plural = numbers_of_nouns()
    for story in stories[:500]:
        for i, token in enumerate(story.tokens):
            label = {name: values[i] for name, values in story.labels.items()}
            assert label["decoy"] == decoy_surfaces.get(token, "")
            if token in singular and label["role"] not in ("adjective", "verb"):
                assert label["number"] in ("sg", ""), (token, label)
            if token in plural:
                assert label["number"] == "pl", (token, label)
            if token in NAME_GENDER:
                assert label["gender"] == NAME_GENDER[token]
            if token == '"':
                assert label["role"] == "quote"
            assert (label["role"] == "punctuation") == (token in ".,?!")


def test_values_of_labels_stay_small(stories):
    limits = {
        "role": 30, "entity": 12, "kind": 7, "number": 3, "gender": 4, "place": 15, "mood": 5,
        "scene": 12, "speaker": 3, "seen": 2, "position_in_sentence": 20, "decoy": len(DECOYS) + 1,
    }  # fmt: skip
    for name, limit in limits.items():
        assert len({value for story in stories for value in story.labels[name]}) <= limit, name


def test_speaker_is_known_inside_quotation_marks_and_only_there(stories):
    for story in stories[:500]:
        inside = False
        for token, speaker in zip(story.tokens, story.labels["speaker"], strict=True):
            if token == '"':
                assert speaker
                inside = not inside
            else:
                assert bool(speaker) == inside
        assert not inside


def test_length_never_exceeds_the_context(stories):
    """The longest scenes seen, put together in every order the grammar allows."""
    longest: Counter[str] = Counter()
    for story in stories:
        run: list[int] = []
        scenes = story.labels["scene"]
        for i, scene in enumerate(scenes):
            # A new sentence begins a new description; other scenes last until the name changes.
            fresh = i == 0 or scene != scenes[i - 1]
            if scene in ("scenery", "sight") and story.labels["position_in_sentence"][i] == 0:
                fresh = True
            run = [0] if fresh else run
            run[0] += 1
            longest[scene] = max(longest[scene], run[0])
    description = max(longest["scenery"], longest["sight"])
    frame = sum(longest[s] for s in ("opening", "setup", "meeting", "payoff", "ending", "coda"))
    talks = (
        description + longest["question"] + description,
        longest["greeting"] + longest["question"] + description,
        description + longest["remark"] + 2 * description,
    )
    assert frame + max(talks) <= MAX_TOKENS
    assert max(len(s.tokens) for s in stories) <= MAX_TOKENS
    assert 50 <= sum(len(s.tokens) for s in stories) / len(stories) <= 110


def test_splits_are_disjoint_whatever_the_seed():
    train = {s.text for seed in range(3) for s in islice(generate(seed, "train"), 500)}
    held = {s.text for seed in range(3) for s in islice(generate(seed, "validation"), 50)}
    assert len(train) == 1500 and len(held) == 150 and not train & held
    for seed, split in ((0, "train"), (1, "validation")):
        for story in islice(generate(seed, split), 50):
            assert grammar.split_of(story) == split


# ------------------------------------------------- agreement, from the surface
NAME_GENDER = {w.name: w.gender for w in lex.NAMES}


def forms(words, plural):
    return {pair[plural] for word in words for pair in word.forms}


def numbers_of_nouns():
    nouns = (*lex.GROWNUPS, *lex.ANIMALS, *lex.OBJECTS, *lex.LANDMARKS)
    return forms(nouns, False), forms(nouns, True)


def either(words):
    return "(?:" + "|".join(sorted(map(re.escape, words), key=len, reverse=True)) + ")"


MOOD_VERBS = [verb for mood in lex.MOODS for verb in mood.verbs]
ALL_VERBS = (
    *MOOD_VERBS, *lex.MOVES, *lex.TRANSITIVES, lex.CARRY, lex.HIDE, lex.FIND, lex.LOOK, lex.WISH,
    lex.GIVE, lex.MEET, lex.SEE, lex.THANK, lex.COME, lex.BEGIN, lex.SAY, lex.ASK, lex.ANSWER,
    lex.BE, *(mood.speech for mood in lex.MOODS),
)  # fmt: skip
SINGULAR, PLURAL = numbers_of_nouns()
NOUN = either(SINGULAR | PLURAL)
ADJECTIVE = either(forms((*lex.TRAITS, *lex.SIZES, *lex.COLOURS, *lex.MATERIALS), False))
VERB = either(forms(ALL_VERBS, False) | forms(ALL_VERBS, True))
NEAR = either(forms(lex.PREPOSITIONS, False))
SUBJECT = (
    rf"(?:(?:the|a|three|two|some|his|her|its) (?:{ADJECTIVE} )*(?P<noun>{NOUN})"
    rf"|(?P<name>{either(NAME_GENDER)})|(?P<pronoun>she|he|it|they)|the (?:sun|rain|wind|moon))"
)
# What may stand between a subject and its verb, as a reader of the text would list it.
FORMS = [
    re.compile(rf" (?P<verb>{VERB})(?!\S)"),
    re.compile(rf" {NEAR} the {NOUN} (?P<verb>{VERB})(?!\S)"),
    re.compile(rf" (?:that|who) (?P<verb>{VERB})(?!\S)"),
    re.compile(rf" (?:that|who) {VERB} the {NOUN} (?P<verb>{VERB})(?!\S)"),
    re.compile(rf" (?:that|who) the {NOUN} {VERB} (?P<verb>{VERB})(?!\S)"),
    re.compile(rf" looks {NEAR} the {NOUN} and (?P<verb>finds)"),
]
VERB_FIRST = re.compile(rf'(?:where|[,?!.] ") ({VERB}) $')
BASE_FORM = re.compile(r"(?:^| )(?:to|i|do you) $")


def violations(text):
    """Verbs of `text` that disagree with their subject, and the number of verbs looked at."""
    singular_verbs, plural_verbs = forms(ALL_VERBS, False), forms(ALL_VERBS, True)
    subjects: dict[int, set[tuple[int, str]]] = {}
    for subject in re.finditer(rf"(?<!\S){SUBJECT}(?!\S)", text):
        number = "sg"
        if subject["noun"] in PLURAL or subject["pronoun"] == "they":
            number = "pl"
        for form in FORMS:
            if match := form.match(text, subject.end()):
                subjects.setdefault(match.start("verb"), set()).add((subject.start(), number))
        if match := VERB_FIRST.search(text, max(0, subject.start() - 20), subject.start()):
            subjects[match.start(1)] = {(subject.start(), number)}
    wrong, looked_at = [], 0
    for match in re.finditer(r"\S+", text):
        verb, at = match.group(), match.start()
        if verb not in singular_verbs | plural_verbs:
            continue
        looked_at += 1
        if BASE_FORM.search(text, max(0, at - 10), at):
            number = "pl"
        elif at in subjects:
            # Candidates that start later stand inside the subject's own phrase or clause.
            number = min(subjects[at])[1]
        else:
            wrong.append((text[max(0, at - 60) : at], verb, "no subject found"))
            continue
        if verb not in (plural_verbs if number == "pl" else singular_verbs):
            wrong.append((text[max(0, at - 60) : at], verb))
    return wrong, looked_at


def test_the_checker_itself_sees_violations():
    good = "the horses that the cat chases dance merrily ."
    assert violations(good) == ([], 2)
    for bad in (
        "the horses that the cat chases dances merrily .",
        "the horses that the cat chase dance merrily .",
        "the horse behind the gates dance merrily .",
        "the kings who likes the hen wait sadly .",
        "they is under the tree .",
        "mia walk to the sea .",
    ):
        assert violations(bad)[0], bad


def test_agreement_is_never_violated(texts):
    total = 0
    for text in texts:
        wrong, looked_at = violations(text)
        assert not wrong, (wrong, text)
        assert looked_at >= 7
        total += looked_at
    assert len(texts) == 3000 and total > 30_000


def test_every_kind_of_agreement_occurs(texts):
    text = " . ".join(texts)
    for number, other in ((SINGULAR, PLURAL), (PLURAL, SINGULAR)):
        n, o = either(number), either(other)
        assert re.search(rf"the {n} {NEAR} the {o} {VERB}", text)
        assert re.search(rf"the {n} (?:that|who) {VERB} the {o} {VERB}", text)
        assert re.search(rf"the {n} (?:that|who) the {o} {VERB} {VERB}", text)


def test_who_for_people_that_for_animals(stories):
    people = forms(lex.GROWNUPS, False) | forms(lex.GROWNUPS, True)
    for story in stories:
        for noun, relative in re.findall(r"(\S+) (who|that) ", story.text):
            assert (noun in people) == (relative == "who")


def hero_of(story):
    """Word of the first character of the text."""
    characters = set(NAME_GENDER) | forms((*lex.GROWNUPS, *lex.ANIMALS), False)
    return next(token for token in story.tokens if token in characters)


def test_gendered_pronouns_are_the_heros(stories):
    gender_of = {form: w.gender for w in (*lex.NAMES, *lex.GROWNUPS, *lex.ANIMALS)
                 for form in forms([w], False)}  # fmt: skip
    wrong_for = {
        "f": {"he", "him", "his", "its"},
        "m": {"she", "her", "its"},
        "n": {"he", "him", "his", "she", "her"},
    }
    met = Counter()
    for story in stories:
        gender = gender_of[hero_of(story)]
        assert not wrong_for[gender] & set(story.tokens), story.text
        met[gender] += 1
    assert min(met.values()) > 100


def test_things_are_it_or_them_by_number(stories):
    for story in stories:
        for noun, pronoun in re.findall(
            rf"carries [^.]*?({NOUN}) \. [^.]* hides (\S+) ", story.text
        ):
            assert pronoun == ("them" if noun in PLURAL else "it")
        for noun, pronoun in re.findall(rf"({NOUN}) , but (\S+) ", story.text):
            assert pronoun == ("they" if noun in PLURAL else "it")
        for noun, pronoun in re.findall(
            rf'({NOUN})(?: from)? \? " asks [^"]*" (it|they) ', story.text
        ):
            assert pronoun == ("they" if noun in PLURAL else "it")


# ------------------------------------------------------------------- recall
CANON = {pair[n]: word.forms[0][n] for word in lex.CONCEPTS for pair in word.forms for n in (0, 1)}


def canon(text):
    return " ".join(CANON.get(token, token) for token in text.split())


def test_what_was_introduced_is_recalled(stories):
    """Synonyms undone, the end of every plot repeats its beginning."""
    thing = rf"((?:{ADJECTIVE} ){{2}}{NOUN})"
    who = rf"((?:the )?{either(set(NAME_GENDER) | SINGULAR)})"
    plots = {
        "hide": (rf"carries (?:a|two|three|some) {thing} \. .* hides \S+ ({NEAR} the {NOUN}) \.",
                 rf"looks ({NEAR} the {NOUN}) and finds the {thing} \."),
        "wish": (rf"wishes for (?:a|two|three|some) {thing} \.",
                 rf"at last {who} gives \S+ the {thing} \."),
        "lose": (rf"looks for \S+ {thing} , but",
                 rf"at last the {thing} (?:come|comes) back to {who} "),
        "gift": (rf"({NOUN}) gives (?:her|him|it) (?:a|two|three|some) {thing} \.",
                 rf"at last \S*(?: \S+)? thanks the ({NOUN}) for the {thing} \."),
    }  # fmt: skip
    found = Counter()
    for story in stories:
        text = canon(story.text)
        for name, (early, late) in plots.items():
            begin, end = re.search(early, text), re.search(late, text)
            if not begin or text.startswith("at last", begin.start() - 20):
                continue
            if name == "gift" and "thanks the" not in text:
                continue  # "gives" of the wish plot
            assert end, (name, text)
            found[name] += 1
            hero = hero_of(story)
            helper = re.search(rf"meets a {ADJECTIVE} (?:(?:girl|boy) named )?(\S+) \.", text)[1]
            if name == "hide":
                assert (begin[1], begin[2]) == (end[2], end[1])
            elif name == "wish":
                assert begin[1] == end[2] and end[1].removeprefix("the ") == helper
            elif name == "lose":
                assert begin[1] == end[1] and end[2].removeprefix("the ") == CANON[hero]
            else:
                assert (begin[1], begin[2]) == (end[1], end[2])
        place = re.findall(rf"the ({either(w.name for w in lex.PLACES)}) ", text)
        assert len(set(place)) == 1
    assert sum(found.values()) == len(stories)
    assert min(found.values()) > 100


def test_mood_colours_the_ending(stories):
    mood_of = {form: mood.name for mood in lex.MOODS for form in forms(mood.weather, False)}
    feelings = {form: mood.name for mood in lex.MOODS for form in forms(mood.feelings, False)}
    for story in stories:
        weather = next(token for token in story.tokens if token in mood_of)
        ending = story.labels["scene"].index("ending")
        feeling = next(token for token in story.tokens[ending:] if token in feelings)
        assert mood_of[weather] == feelings[feeling] == story.labels["mood"][-1]


# ------------------------------------------------------- decoys and log-probs
def replay(trace):
    """The story of a trace, and every choice met on the way with the alternative taken."""
    script, met = iter(trace), []

    def draw(choice):
        index = next(script)
        met.append((choice, index))
        return index

    story = grammar.tell(draw)
    assert next(script, None) is None
    return story, met


def test_a_flipped_coin_changes_one_word_and_nothing_else(stories):
    flipped = Counter()
    for story in stories[:400]:
        names = [name for name in story.labels["decoy"] if name]
        for name, coin in zip(names, story.coins, strict=True):
            if flipped[name] >= 10:
                continue
            trace = list(story.trace)
            trace[coin] = 1 - trace[coin]
            twin, _ = replay(trace)
            different = [i for i, (a, b) in enumerate(zip(story.tokens, twin.tokens, strict=True))
                         if a != b]  # fmt: skip
            assert len(different) == 1
            pair = DECOYS[story.labels["decoy"][different[0]]]
            assert {story.tokens[different[0]], twin.tokens[different[0]]} in [
                {forms[number] for forms in pair.forms} for number in (0, 1)
            ]
            assert twin.logprob == pytest.approx(story.logprob, abs=1e-9)
            assert twin.labels == story.labels
            assert grammar.split_of(twin) == grammar.split_of(story)
            flipped[name] += 1
    assert len(DECOYS) >= 8 and set(flipped) == set(DECOYS)


def test_coins_are_fair_and_words_know_their_synonyms(stories):
    counts = Counter(token for story in stories for token in story.tokens)
    for word in DECOYS.values():
        heads, tails = (sum(counts[form] for form in set(pair)) for pair in word.forms)
        assert abs(heads - tails) < 5 * math.sqrt(heads + tails)
    surfaces = [form for word in lex.CONCEPTS for pair in word.forms for form in set(pair)]
    repeated = {form for form, n in Counter(surfaces).items() if n > 1}
    assert repeated == {"hides", "golden"}, "words with two senses; no decoy may be one of them"


def test_logprob_is_the_sum_over_the_replayed_decisions(stories):
    for story in stories[:100]:
        twin, met = replay(story.trace)
        assert twin == story
        logprob = math.fsum(math.log(choice.probabilities[index]) for choice, index in met)
        assert story.logprob == pytest.approx(logprob, abs=1e-9)
        for choice, _ in met:
            assert math.fsum(choice.probabilities) == pytest.approx(1, abs=1e-12)
        # What is missing in the labels is the decision to stop, taken after the last token.
        stop = -story.logprob - math.fsum(story.labels["nats"])
        assert stop == pytest.approx(0 if story.tokens[-1] != "." else stop)
        assert stop >= -1e-9


def enumerate_texts(write):
    """Every (text, probability) of a part of the grammar."""
    out, script = [], []
    while True:
        position = 0

        def draw(choice):
            nonlocal position
            if position == len(script):
                script.append([0, len(choice.options)])
            position += 1
            return script[position - 1][0]

        teller = Teller(draw)
        write(teller)
        out.append((" ".join(r[0] for r in teller.records), math.exp(teller.logprob)))
        while script and script[-1][0] == script[-1][1] - 1:
            script.pop()
        if not script:
            return out
        script[-1][0] += 1


def small_plot(teller):
    plot = grammar.Plot(teller)
    teller.mood = lex.MOODS[0]
    plot.hero.become(lex.NAMES[0])
    plot.helper.become(lex.ANIMALS[2])
    return plot


@pytest.mark.parametrize(
    "write",
    [
        lambda t: phrases.introduce(t, Entity("hero"), "subject"),
        lambda t: phrases.thing(t, "treasure", choices.LOOK, choices.OBJECT),
        lambda t: small_plot(t).together(),
        lambda t: small_plot(t).ending(),
    ],
    ids=["introduce", "thing", "together", "ending"],
)
def test_enumerated_parts_sum_to_one_and_have_one_derivation(write):
    texts = enumerate_texts(write)
    assert math.fsum(p for _, p in texts) == pytest.approx(1, abs=1e-9)
    assert len({text for text, _ in texts}) == len(texts) > 10


def test_whole_stories_with_a_tiny_lexicon_have_one_derivation(monkeypatch):
    """All stories, when every lexical choice has a single word: only the structure varies."""
    names = [n for n, v in vars(choices).items() if isinstance(v, Choice)]
    structural = {"OPENING", "CLAUSE", "DESCRIPTION", "TALK", "BUSINESS", "TOGETHER", "CODA",
                  "BY_NAME"}  # fmt: skip
    for name in names:
        if name not in structural:
            options = getattr(choices, name).options
            monkeypatch.setattr(choices, name, Choice(options[:1]))
    one = {mood: Choice(mood.weather[1:2]) for mood in lex.MOODS}
    monkeypatch.setattr(choices, "WEATHER", one)
    for table, words in (("VERBS", "verbs"), ("ADVERBS", "adverbs"), ("FEELINGS", "feelings")):
        monkeypatch.setattr(
            choices, table, {mood: Choice(getattr(mood, words)[-1:]) for mood in lex.MOODS}
        )
    monkeypatch.setattr(choices, "CLAUSE", Choice(("simple",)))
    monkeypatch.setattr(choices, "CROWD", Choice((Choice(lex.ANIMALS[:1]),)))
    monkeypatch.setattr(choices, "SIGHT", Choice((Choice(lex.OBJECTS[:1]),)))
    # Who is "not the hero" needs someone else to choose from.
    monkeypatch.setattr(choices, "CAST", Choice((Choice(lex.GIRLS[:2]),)))
    monkeypatch.setattr(choices, "NAMES", {lex.GIRL: Choice(lex.GIRLS[:2])})
    monkeypatch.setattr(choices, "GROWNUP", Choice(lex.GROWNUPS[:1]))
    monkeypatch.setattr(Teller, "surface", lambda self, word, plural=False: word.forms[0][plural])
    texts = enumerate_texts(lambda t: grammar.Plot(t).tell())
    assert math.fsum(p for _, p in texts) == pytest.approx(1, abs=1e-9)
    assert len({text for text, _ in texts}) == len(texts) > 500


# ------------------------------------------------------- tokenizer and corpus
def test_vocabulary_is_what_the_stories_use(stories):
    words = {token for story in stories for token in story.tokens}
    assert words <= set(TOKEN_IDS)
    assert 400 <= len(TOKEN_IDS) <= 512
    assert len(set(TOKEN_IDS) - words) <= 5
    assert all(word == word.lower() and " " not in word for word in TOKEN_IDS)


def test_tokenizer_round_trip(stories):
    tokenizer = build_tokenizer()
    for story in stories[:100]:
        ids = tokenizer(story.text)["input_ids"]
        assert ids == [TOKEN_IDS[token] for token in story.tokens]
        assert tokenizer.decode(ids) == story.text
    end = TOKEN_IDS["<|endoftext|>"]
    assert {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id,
            tokenizer.unk_token_id} == {end}  # fmt: skip
    text = f"{stories[0].text} <|endoftext|> {stories[1].text}"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert tokenizer("xylophone")["input_ids"] == [end]


def test_dataset_columns():
    data = storyworld_dataset("validation", 20, seed=3)
    assert data.column_names == ["text", "input_ids", "logprob", *LABELS]
    expected = list(islice(generate(3, "validation"), 20))
    for row, story in zip(data, expected, strict=True):
        assert row["text"] == story.text and row["logprob"] == story.logprob
        assert all(len(row[name]) == len(row["input_ids"]) for name in LABELS)
        assert row["entity"] == story.labels["entity"] and row["seen"] == story.labels["seen"]


@pytest.mark.parametrize("split, n_stories, message", [
    ("test", 5, r"split is 'test'; allowed: 'train', 'validation'"),
    ("train", 0, r"n_stories is 0; it must be at least 1"),
])  # fmt: skip
def test_bad_requests(split, n_stories, message):
    with pytest.raises(ValueError, match=message):
        storyworld_dataset(split, n_stories)
    if split == "test":
        with pytest.raises(ValueError, match=message):
            generate(0, split)


def test_choice_draws_its_probabilities():
    choice = Choice("abc", (1, 2, 3))
    uniform = random.Random(0).random
    counts = Counter(choice.options[bisect(choice.cumulative, uniform())] for _ in range(6000))
    for option, probability in zip(choice.options, choice.probabilities, strict=True):
        assert abs(counts[option] / 6000 - probability) < 0.03
    assert choice.without("a").probabilities == pytest.approx((0.4, 0.6))


# ------------------------------------------------------------ language model
@pytest.fixture(scope="module")
def language_model():
    return pytest.importorskip("e2e_lib.storyworld.language_model")


def test_shipped_model_is_within_five_percent_of_the_bound(language_model):
    model = language_model.load_language_model(STORYWORLD_FOLDER)
    shipped = json.loads((STORYWORLD_FOLDER / "training.json").read_text())
    measured = language_model.evaluate_language_model(model, shipped["stories"])
    assert 0.99 < measured["ratio"] <= 1.05
    assert measured["ce"] == pytest.approx(shipped["ce"], abs=1e-4)  # the file tells the truth
    # Other stories agree within the sampling error of a few hundred.
    others = language_model.evaluate_language_model(model, n_stories=200, seed=21)
    assert abs(others["excess"] - shipped["excess"]) < 4 * others["excess_stderr"]


def test_shipped_tokenizer_is_the_built_one():
    from transformers import AutoTokenizer

    shipped = AutoTokenizer.from_pretrained(str(STORYWORLD_FOLDER))
    text = next(generate(0)).text
    assert shipped.get_vocab() == build_tokenizer().get_vocab()
    assert shipped.decode(shipped(text)["input_ids"]) == text
    assert shipped.eos_token == shipped.pad_token == "<|endoftext|>"


def test_shipped_model_boots_in_transformer_lens(language_model, monkeypatch):
    import torch
    from transformer_lens.model_bridge import TransformerBridge

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    bridge = TransformerBridge.boot_transformers(str(STORYWORLD_FOLDER), device="cpu")
    model = language_model.load_language_model(STORYWORLD_FOLDER)
    tokens = torch.tensor([[0, *(TOKEN_IDS[t] for t in next(generate(2)).tokens)]])
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(tokens, return_type="logits")
        expected = model(tokens).logits
    assert torch.allclose(logits, expected, atol=1e-4)
    assert cache["blocks.2.hook_resid_pre"].shape == (1, tokens.shape[1], model.config.n_embd)


def test_a_few_steps_reduce_the_loss_and_are_reproducible(language_model):
    config = language_model.LanguageModelConfig(
        steps=12, batch_size=4, n_layer=2, d_model=32, n_head=2, warmup=2
    )
    _, losses = language_model.train_language_model(config, progress=False)
    _, again = language_model.train_language_model(config, progress=False)
    assert losses == again
    assert losses[-1] < losses[0] - 0.3


def test_training_refuses_no_steps(language_model):
    with pytest.raises(ValueError, match="steps is 0; it must be at least 1"):
        language_model.train_language_model(language_model.LanguageModelConfig(steps=0))
