"""Writes what matters of the service model of AWS Lambda MicroVMs, as botocore has it: `cargo xtask aws-model`.

The result has one operation and one shape on each line, without documentation, so that a difference between two versions of the model
is easy to read. Tests of the daemon compare it with their tables, member by member.
"""

import json
import sys

import botocore
import botocore.loaders

SERVICE, VERSION = "lambda-microvms", "2025-09-09"


def without_documentation(value):
    if isinstance(value, dict):
        return {
            key: without_documentation(inner)
            for key, inner in value.items()
            if not (key == "documentation" and isinstance(inner, str))
        }
    if isinstance(value, list):
        return [without_documentation(inner) for inner in value]
    return value


def lines(entries):
    text = (f"  {json.dumps(name)}: {json.dumps(entry, sort_keys=True)}" for name, entry in sorted(entries.items()))
    return "{\n" + ",\n".join(text) + "\n }"


def main():
    loader = botocore.loaders.Loader(include_default_search_paths=False, extra_search_paths=[botocore.loaders.Loader.BUILTIN_DATA_PATH])
    model = without_documentation(loader.load_service_model(SERVICE, "service-2", VERSION))
    pages = loader.load_service_model(SERVICE, "paginators-1", VERSION)["pagination"]
    head = {"botocore": botocore.__version__, "service": SERVICE, "version": VERSION, "metadata": model["metadata"]}
    parts = [f" {json.dumps(key)}: {json.dumps(value, sort_keys=True)}" for key, value in head.items()]
    for key, entries in [("operations", model["operations"]), ("paginators", pages), ("shapes", model["shapes"])]:
        parts.append(f" {json.dumps(key)}: {lines(entries)}")
    sys.stdout.write("{\n" + ",\n".join(parts) + "\n}\n")


main()
