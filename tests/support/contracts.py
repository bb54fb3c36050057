"""An import contract that import-linter lacks: a package without strangers among its imports."""

import sys

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class PureContract(Contract):
    """``package`` imports nothing but itself, the standard library and the ``allowed`` modules."""

    type_name = "pure"

    package = fields.StringField()
    allowed = fields.ListField(subfield=fields.StringField())

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Find every direct import of another module."""
        package, allowed = str(self.package), set(map(str, self.allowed))  # type: ignore[call-overload]
        strangers = [
            (importer, imported)
            for importer in sorted({package} | graph.find_descendants(package))
            for imported in sorted(graph.find_modules_directly_imported_by(importer))
            if imported not in allowed
            and imported.partition(".")[0] not in sys.stdlib_module_names
            and imported != package
            and not imported.startswith(f"{package}.")
        ]
        return ContractCheck(kept=not strangers, metadata={"strangers": strangers})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """Name each import that is not allowed."""
        for importer, imported in check.metadata["strangers"]:
            output.print_error(f"{importer} imports {imported}")
