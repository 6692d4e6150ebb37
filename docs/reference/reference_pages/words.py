"""Values and their types, as the reference writes them."""

from __future__ import annotations

import json
import types
import typing
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel


def plain(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if not value or "\n" in value else value
    if isinstance(value, BaseModel):
        return "{}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def type_in_words(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inner)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(type_in_words(part) for part in inner if part is not type(None))
    if origin is list or (origin is tuple and inner[-1] is Ellipsis):
        return f"list of {type_in_words(inner[0])}"
    if origin is tuple:
        return "[" + ", ".join(type_in_words(part) for part in inner) + "]"
    if origin is dict:
        return f"map of {type_in_words(inner[1])}" if inner[1] is not Any else "map"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    names = {str: "text", int: "whole number", float: "number", bool: "true or false"}
    return names.get(annotation, str(annotation))
