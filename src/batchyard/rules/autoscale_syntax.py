"""The autoscale formula language: text into a tree (contract 6.1).

A formula is bounded in length, statements and depth, so that whoever walks the tree needs neither much time nor a deep stack.
Every place in it knows its line and column, both counted from 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any, cast

import msgspec
from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

LONGEST_FORMULA = 8192
"""Characters."""
MOST_STATEMENTS = 100
DEEPEST = 100
"""How deep expressions may lie within each other."""

_GRAMMAR = r"""
start: [statement] (";" [statement])*
?statement: NAME "=" expr -> assign
    | expr -> evaluate
?expr: any_of
    | any_of "?" expr ":" expr -> choice
?any_of: all_of | all_of ("||" all_of)+ -> any_of
?all_of: compared | compared ("&&" compared)+ -> all_of
?compared: sum | sum (COMPARISON sum)+ -> chain
?sum: product | product ((PLUS | MINUS) product)+ -> chain
?product: unary | unary ((TIMES | OVER) unary)+ -> chain
?unary: postfix | (MINUS | NOT) unary -> sign
?postfix: primary
    | postfix "." NAME -> member
    | postfix "." NAME "(" [arguments] ")" -> method
?primary: NUMBER -> number
    | STRING -> text
    | NAME -> name
    | NAME "(" [arguments] ")" -> call
    | "(" expr ")" -> group
arguments: expr ("," expr)*

COMPARISON: "<=" | ">=" | "==" | "!=" | "<" | ">"
PLUS: "+"
MINUS: "-"
TIMES: "*"
OVER: "/"
NOT: "!"
NAME: /\$?[A-Za-z_][A-Za-z0-9_]*/
NUMBER: /([0-9]+(\.[0-9]+)?|\.[0-9]+)([eE][+-]?[0-9]+)?/
STRING: /"[^"\n]*"/
COMMENT: /\/\/[^\n]*/
%ignore COMMENT
%ignore /[ \t\r\n\f\v\u00a0\ufeff]+/
"""


class FormulaTooLong(Exception):
    """The formula has more characters than a formula may have."""


class FormulaSyntaxError(Exception):
    """The text is no formula; the message begins with line and column."""


class Place(msgspec.Struct, frozen=True):
    """Where in the formula something stands."""

    line: int
    column: int

    def __str__(self) -> str:
        return f"Line {self.line}, Col {self.column}"


class Node(msgspec.Struct, frozen=True):
    """A piece of a formula; `depth` is how many lie within each other below it, itself included."""

    place: Place
    depth: int


class Number(Node, frozen=True):
    """A literal number."""

    text: str


class Text(Node, frozen=True):
    """A literal string."""

    value: str


class Name(Node, frozen=True):
    """A variable, constant or word."""

    name: str


class Call(Node, frozen=True):
    """A function with its arguments."""

    name: str
    arguments: tuple[Node, ...]


class Member(Node, frozen=True):
    """A member of what an expression gives."""

    owner: Node
    name: str


class Method(Node, frozen=True):
    """A method of what an expression gives, with its arguments."""

    owner: Node
    name: str
    arguments: tuple[Node, ...]


class Sign(Node, frozen=True):
    """`-` or `!` before an expression."""

    operator: str
    operand: Node


class Chain(Node, frozen=True):
    """Operators of one precedence between expressions, from left to right."""

    first: Node
    rest: tuple[tuple[str, Place, Node], ...]


class Logic(Node, frozen=True):
    """`&&` or `||` between expressions; evaluated no further than needed."""

    operator: str
    operands: tuple[Node, ...]


class Choice(Node, frozen=True):
    """`condition ? yes : no`."""

    condition: Node
    yes: Node
    no: Node


class Assignment(Node, frozen=True):
    """`name = expression`."""

    name: str
    value: Node


@lru_cache(maxsize=32)
def parse(formula: str) -> tuple[Node, ...]:
    """Statements of a formula. Raises FormulaTooLong, FormulaSyntaxError."""
    if len(formula) > LONGEST_FORMULA:
        raise FormulaTooLong
    try:
        statements = cast("tuple[Node, ...]", _parser().parse(formula))  # the builder makes no tree of lark's
    except UnexpectedInput as error:
        raise FormulaSyntaxError(_sentence(error, formula)) from None
    if len(statements) > MOST_STATEMENTS:
        place = statements[MOST_STATEMENTS].place
        raise FormulaSyntaxError(f"{place}: A formula has at most {MOST_STATEMENTS} statements")
    return statements


@cache
def _parser() -> Lark:
    """Made when the first formula comes, because that takes a while."""
    return Lark(_GRAMMAR, parser="lalr", transformer=_Builder(), maybe_placeholders=False)


def _sentence(error: UnexpectedInput, formula: str) -> str:
    if isinstance(error, UnexpectedCharacters):
        return f"{Place(error.line, error.column)}: Unexpected character '{error.char}'"
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        return f"{Place(error.line, error.column)}: Unexpected '{str(error.token)[:40]}'"
    lines = formula.split("\n")
    return f"{Place(len(lines), len(lines[-1]) + 1)}: Unexpected end of the formula"


def _place(token: Token) -> Place:
    return Place(token.line or 1, token.column or 1)


def _above(place: Place, *below: Node) -> int:
    """Depth of what holds these. Raises FormulaSyntaxError when that is too deep."""
    depth = 1 + max((node.depth for node in below), default=0)
    if depth > DEEPEST:
        raise FormulaSyntaxError(f"{place}: Expressions lie more than {DEEPEST} deep within each other")
    return depth


class _Builder(Transformer[Token, Any]):
    """Makes nodes while the parser reads, so that no depth of the text becomes a depth of our stack."""

    def start(self, statements: list[Node]) -> tuple[Node, ...]:
        return tuple(statements)

    def assign(self, parts: list[Any]) -> Node:
        name, value = parts
        return Assignment(_place(name), _above(_place(name), value), str(name), value)

    def evaluate(self, parts: list[Node]) -> Node:
        return parts[0]

    def choice(self, parts: list[Node]) -> Node:
        condition, yes, no = parts
        return Choice(condition.place, _above(condition.place, *parts), condition, yes, no)

    def any_of(self, parts: list[Node]) -> Node:
        return Logic(parts[0].place, _above(parts[0].place, *parts), "||", tuple(parts))

    def all_of(self, parts: list[Node]) -> Node:
        return Logic(parts[0].place, _above(parts[0].place, *parts), "&&", tuple(parts))

    def chain(self, parts: list[Any]) -> Node:
        operands: Sequence[Node] = parts[::2]
        rest = tuple((str(token), _place(token), operand) for token, operand in zip(parts[1::2], operands[1:], strict=True))
        return Chain(operands[0].place, _above(operands[0].place, *operands), operands[0], rest)

    def sign(self, parts: list[Any]) -> Node:
        token, operand = parts
        return Sign(_place(token), _above(_place(token), operand), str(token), operand)

    def group(self, parts: list[Node]) -> Node:
        return parts[0]

    def member(self, parts: list[Any]) -> Node:
        owner, name = parts
        return Member(_place(name), _above(_place(name), owner), owner, str(name))

    def method(self, parts: list[Any]) -> Node:
        owner, name, *rest = parts
        arguments: tuple[Node, ...] = rest[0] if rest else ()
        return Method(_place(name), _above(_place(name), owner, *arguments), owner, str(name), arguments)

    def call(self, parts: list[Any]) -> Node:
        name, *rest = parts
        arguments: tuple[Node, ...] = rest[0] if rest else ()
        return Call(_place(name), _above(_place(name), *arguments), str(name), arguments)

    def arguments(self, parts: list[Node]) -> tuple[Node, ...]:
        return tuple(parts)

    def number(self, parts: list[Token]) -> Node:
        return Number(_place(parts[0]), 1, str(parts[0]))

    def text(self, parts: list[Token]) -> Node:
        return Text(_place(parts[0]), 1, str(parts[0])[1:-1])

    def name(self, parts: list[Token]) -> Node:
        return Name(_place(parts[0]), 1, str(parts[0]))
