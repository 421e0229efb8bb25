"""Look-up tools over small real tables: what the tasks of ``tasks.jsonl`` need besides arithmetic.

``TOOLS`` lists them all.
"""

import ast
import difflib
import operator

from manyhands import tool

# Country: capital, inhabitants (estimates for 2023), continent, currency.
COUNTRIES = {
    "Argentina": ("Buenos Aires", 45_773_884, "South America", "peso"),
    "Australia": ("Canberra", 26_439_111, "Oceania", "dollar"),
    "Austria": ("Vienna", 8_958_960, "Europe", "euro"),
    "Belgium": ("Brussels", 11_686_140, "Europe", "euro"),
    "Brazil": ("Brasilia", 216_422_446, "South America", "real"),
    "Canada": ("Ottawa", 38_781_291, "North America", "dollar"),
    "Chile": ("Santiago", 19_629_590, "South America", "peso"),
    "China": ("Beijing", 1_425_671_352, "Asia", "yuan"),
    "Denmark": ("Copenhagen", 5_910_913, "Europe", "krone"),
    "Egypt": ("Cairo", 112_716_598, "Africa", "pound"),
    "Ethiopia": ("Addis Ababa", 126_527_060, "Africa", "birr"),
    "Finland": ("Helsinki", 5_545_475, "Europe", "euro"),
    "France": ("Paris", 64_756_584, "Europe", "euro"),
    "Germany": ("Berlin", 83_294_633, "Europe", "euro"),
    "Ghana": ("Accra", 34_121_985, "Africa", "cedi"),
    "Greece": ("Athens", 10_341_277, "Europe", "euro"),
    "Iceland": ("Reykjavik", 375_318, "Europe", "krona"),
    "India": ("New Delhi", 1_428_627_663, "Asia", "rupee"),
    "Indonesia": ("Jakarta", 277_534_122, "Asia", "rupiah"),
    "Ireland": ("Dublin", 5_056_935, "Europe", "euro"),
    "Italy": ("Rome", 58_870_762, "Europe", "euro"),
    "Japan": ("Tokyo", 123_294_513, "Asia", "yen"),
    "Kenya": ("Nairobi", 55_100_586, "Africa", "shilling"),
    "Mexico": ("Mexico City", 128_455_567, "North America", "peso"),
    "Morocco": ("Rabat", 37_840_044, "Africa", "dirham"),
    "Netherlands": ("Amsterdam", 17_618_299, "Europe", "euro"),
    "New Zealand": ("Wellington", 5_228_100, "Oceania", "dollar"),
    "Nigeria": ("Abuja", 223_804_632, "Africa", "naira"),
    "Norway": ("Oslo", 5_474_360, "Europe", "krone"),
    "Pakistan": ("Islamabad", 240_485_658, "Asia", "rupee"),
    "Peru": ("Lima", 34_352_719, "South America", "sol"),
    "Poland": ("Warsaw", 41_026_067, "Europe", "zloty"),
    "Portugal": ("Lisbon", 10_247_605, "Europe", "euro"),
    "South Korea": ("Seoul", 51_784_059, "Asia", "won"),
    "Spain": ("Madrid", 47_519_628, "Europe", "euro"),
    "Sweden": ("Stockholm", 10_612_086, "Europe", "krona"),
    "Switzerland": ("Bern", 8_796_669, "Europe", "franc"),
    "Thailand": ("Bangkok", 71_801_279, "Asia", "baht"),
    "Turkey": ("Ankara", 85_816_199, "Asia", "lira"),
    "Vietnam": ("Hanoi", 98_858_950, "Asia", "dong"),
}

# Element: symbol, atomic number.
ELEMENTS = {
    "hydrogen": ("H", 1), "helium": ("He", 2), "lithium": ("Li", 3), "carbon": ("C", 6), "nitrogen": ("N", 7),
    "oxygen": ("O", 8), "fluorine": ("F", 9), "neon": ("Ne", 10), "sodium": ("Na", 11), "magnesium": ("Mg", 12),
    "aluminium": ("Al", 13), "silicon": ("Si", 14), "phosphorus": ("P", 15), "sulfur": ("S", 16),
    "chlorine": ("Cl", 17), "argon": ("Ar", 18), "potassium": ("K", 19), "calcium": ("Ca", 20),
    "titanium": ("Ti", 22), "chromium": ("Cr", 24), "iron": ("Fe", 26), "cobalt": ("Co", 27), "nickel": ("Ni", 28),
    "copper": ("Cu", 29), "zinc": ("Zn", 30), "silver": ("Ag", 47), "tin": ("Sn", 50), "iodine": ("I", 53),
    "tungsten": ("W", 74), "platinum": ("Pt", 78), "gold": ("Au", 79), "mercury": ("Hg", 80), "lead": ("Pb", 82),
    "uranium": ("U", 92),
}  # fmt: skip

# Planet: mean diameter in kilometres.
PLANETS = {
    "Mercury": 4_879, "Venus": 12_104, "Earth": 12_742, "Mars": 6_779, "Jupiter": 139_820, "Saturn": 116_460,
    "Uranus": 50_724, "Neptune": 49_244,
}  # fmt: skip


def _find(table, name, kind):
    wanted = name.strip().lower().removeprefix("the ")
    for known, value in table.items():
        if known.lower() == wanted:
            return value
    near = difflib.get_close_matches(name.title(), [known.title() for known in table], n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise ValueError(f"There is no {kind} {name!r} in the table.{hint}")


@tool
def capital_of(country: str) -> str:
    """Look up the capital of a country.

    Args:
        country: English name of the country, such as "Norway".
    """
    return _find(COUNTRIES, country, "country")[0]


@tool
async def population_of(country: str) -> int:
    """Look up how many people live in a country.

    Args:
        country: English name of the country, such as "Norway".
    """
    return _find(COUNTRIES, country, "country")[1]


@tool
def continent_of(country: str) -> str:
    """Look up the continent on which a country lies.

    Args:
        country: English name of the country, such as "Norway".
    """
    return _find(COUNTRIES, country, "country")[2]


@tool
def currency_of(country: str) -> str:
    """Look up the currency that is used in a country.

    Args:
        country: English name of the country, such as "Norway".
    """
    return _find(COUNTRIES, country, "country")[3]


@tool
def element_symbol(element: str) -> str:
    """Look up the symbol of a chemical element.

    Args:
        element: English name of the element, such as "iron".
    """
    return _find(ELEMENTS, element, "element")[0]


@tool
def atomic_number(element: str) -> int:
    """Look up the atomic number of a chemical element.

    Args:
        element: English name of the element, such as "iron".
    """
    return _find(ELEMENTS, element, "element")[1]


@tool
def diameter_of(planet: str) -> int:
    """Look up the mean diameter of a planet in kilometres.

    Args:
        planet: English name of the planet, such as "Mars".
    """
    return _find(PLANETS, planet, "planet")


@tool
def calculate(expression: str) -> float:
    """Compute an arithmetic expression; for agents that call tools instead of writing code.

    Args:
        expression: Numbers, parentheses and + - * / // % **, such as "17 * 23 + 4".
    """
    return _value(ast.parse(expression, mode="eval").body)


def _power(base, exponent):
    if abs(exponent) > 100:
        raise ValueError("Exponents above 100 are not computed here.")
    return base**exponent


_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power,
    ast.USub: operator.neg, ast.UAdd: operator.pos,
}  # fmt: skip


def _value(node):
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        return node.value
    if isinstance(node, ast.UnaryOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_value(node.left), _value(node.right))
    raise ValueError("Only numbers, parentheses and + - * / // % ** can be computed.")


TOOLS = [
    capital_of, population_of, continent_of, currency_of, element_symbol, atomic_number, diameter_of, calculate,
]  # fmt: skip
