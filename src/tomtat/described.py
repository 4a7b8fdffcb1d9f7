"""What is said under each attribute of a class, read from its source when somebody asks.

Pydantic's own way (`use_attribute_docstrings`) reads it as each class is made: a tenth of a second at every start, for
what only an OpenAPI document and the tests of our pages show.
"""

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue


def described(cls: type) -> dict[str, str]:
    """The docstrings of a class's attributes by their names, those that it inherits among them."""
    found: dict[str, str] = {}
    models = [one for one in cls.__mro__ if issubclass(one, BaseModel) and one is not BaseModel]
    for one in reversed(models):
        for attribute, said in pairwise(_definitions(one.__module__)[one.__name__].body):
            text = _text_of(said)
            if text is not None and isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name):
                found[attribute.target.id] = text
    return found


class Described(BaseModel):
    """Attributes' docstrings are their descriptions in JSON schemas."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, said in described(cls).items():
            properties[name].setdefault("description", said)
        return schema


@cache
def _definitions(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _text_of(node: ast.stmt) -> str | None:
    value = node.value if isinstance(node, ast.Expr) else None
    return inspect.cleandoc(value.value) if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
