"""Writes ``tasks.jsonl``: about 300 small tasks with the answers that agents should find.

The same file comes out each time. Run it again after a change: ``python examples/make_tasks.py``.
"""

import json
import math
import random
import statistics
from pathlib import Path

from lookup_tools import COUNTRIES, ELEMENTS, PLANETS

SEED = 20
TEXT = (
    "many hands make light work while a single hand ties slow knots and the river carries every boat "
    "toward the same bright harbour before evening"
)
WORDS = TEXT.split()


def arithmetic(rng):
    """Yield expressions in digits and in words."""
    for _ in range(18):
        a, b, c = rng.randint(2, 99), rng.randint(2, 99), rng.randint(2, 999)
        yield f"What is {a} * {b} + {c}?", a * b + c
        yield f"Calculate ({c} - {a}) * {b}", (c - a) * b
    for _ in range(10):
        a, b, c = rng.randint(100, 9999), rng.randint(2, 60), rng.randint(2, 12)
        yield f"What is {a} / {b}?", a / b
        yield f"What is {a} divided by {b}, plus {c}?".replace(",", ""), a / b + c
        yield f"Compute {b} to the power of {c}.", b**c
    for _ in range(8):
        a, b = rng.randint(2, 90), rng.randint(100, 4000)
        yield f"What is {a}% of {b}?", b * a / 100
        yield f"What is {a} times {b:,} minus {a}?", a * b - a


def series(rng):
    """Yield sums over ranges, and questions about numbers."""
    for _ in range(6):
        low, high = rng.randint(1, 20), rng.randint(30, 400)
        numbers = range(low, high + 1)
        yield f"Sum the squares of the numbers from {low} to {high}", sum(n * n for n in numbers)
        yield f"Add up all the odd numbers from {low} to {high}.", sum(n for n in numbers if n % 2)
        yield f"What is the average of the numbers from {low} to {high}?", sum(numbers) / len(numbers)
        by = rng.randint(3, 13)
        question = f"How many numbers from {low} to {high} are divisible by {by}?"
        yield question, sum(1 for n in numbers if n % by == 0)
    for _ in range(6):
        a, b = rng.randint(12, 900), rng.randint(12, 900)
        yield f"What is the greatest common divisor of {a} and {b}?", math.gcd(a, b)
        yield f"What is the factorial of {a % 20 + 3}?", math.factorial(a % 20 + 3)
        values = rng.sample(range(1, 500), 5)
        listed = ", ".join(map(str, values))
        yield f"What is the median of {listed}?", statistics.median(values)
        yield f"What is the largest of {listed}?", max(values)


def primes(rng):
    """Yield questions about prime numbers."""
    known = [n for n in range(2, 2000) if all(n % d for d in range(2, math.isqrt(n) + 1))]
    for _ in range(5):
        limit, place = rng.randint(20, 1500), rng.randint(5, 200)
        below = [n for n in known if n < limit]
        yield f"How many primes are there below {limit}?", len(below)
        yield f"What is the sum of all primes below {limit}?", sum(below)
        yield f"What is the {ordinal(place)} prime number?", known[place - 1]
        yield f"Is {limit} a prime number?", "yes" if limit in known else "no"


def words(rng):
    """Yield questions about texts."""
    for _ in range(6):
        chosen = rng.sample(WORDS, rng.randint(4, 12))
        text, word, letter = (
            " ".join(chosen),
            rng.choice([word for word in WORDS if len(word) > 3]),
            rng.choice("aeinrst"),
        )
        yield f'How many words are in the text "{text}"?', len(chosen)
        yield f'How many vowels are in "{text}"?', sum(text.count(vowel) for vowel in "aeiou")
        yield f'How many times does the letter "{letter}" appear in "{text}"?', text.count(letter)
        yield f'Reverse the word "{word}".', word[::-1]
        yield f'What is the longest word in "{text}"?', max(chosen, key=len)


def lookups(rng):
    """Yield questions that one or two tool calls answer."""
    for country, (capital, people, continent, currency) in rng.sample(sorted(COUNTRIES.items()), 14):
        yield f"What is the capital of {said(country)}?", capital
        yield f"How many people live in {said(country)}?", people
        yield f"On which continent is {said(country)}?", continent
        yield f"What is the currency of {said(country)}?", currency
    for element, (symbol, number) in rng.sample(sorted(ELEMENTS.items()), 12):
        yield f"What is the chemical symbol of {element}?", symbol
        yield f"What is the atomic number of {element}?", number
    for _ in range(8):
        one, two = rng.sample(sorted(COUNTRIES), 2)
        answer = f"{COUNTRIES[one][0]} and {COUNTRIES[two][0]}"
        yield f"What are the capitals of {said(one)} and {said(two)}?", answer


def mixed(rng):
    """Yield questions that need tools and arithmetic."""
    for _ in range(8):
        small, large = sorted(rng.sample(sorted(COUNTRIES), 2), key=lambda name: COUNTRIES[name][1])
        few, many = COUNTRIES[small][1], COUNTRIES[large][1]
        yield f"How many more people live in {said(large)} than in {said(small)}?", many - few
        yield f"How many people live in {said(small)} and {said(large)} together?", few + many
        yield f"Which country has more people, {small} or {large}?", large
        yield f"How many letters are in the capital of {said(small)}?", len(COUNTRIES[small][0])
        one, two = rng.sample(sorted(ELEMENTS), 2)
        question = f"What is the atomic number of {one} plus the atomic number of {two}?"
        yield question, ELEMENTS[one][1] + ELEMENTS[two][1]
    for planet, diameter in PLANETS.items():
        yield f"What is the diameter of {planet} divided by 2?", diameter / 2


def said(country):
    """Return a country's name as a sentence has it."""
    return f"the {country}" if country == "Netherlands" else country


def ordinal(number):
    """Return 1st, 2nd, 3rd, 4th ..."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def make_tasks():
    """Return the tasks in the order of the file, without repetitions."""
    rng = random.Random(SEED)
    kinds = (arithmetic, series, primes, words, lookups, mixed)
    found = {question: answer for kind in kinds for question, answer in kind(rng)}
    questions = sorted(found)
    rng.shuffle(questions)
    return [
        {"id": f"task-{number:03}", "task": question, "expected": found[question]}
        for number, question in enumerate(questions, 1)
    ]


if __name__ == "__main__":
    lines = [json.dumps(task, ensure_ascii=False) for task in make_tasks()]
    path = Path(__file__).with_name("tasks.jsonl")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(lines)} tasks in {path.name}")
