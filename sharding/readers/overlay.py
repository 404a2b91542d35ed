"""Two sources as one, for datasets that extend another one."""

from dataclasses import dataclass

from sharding.tree import Tree


@dataclass(frozen=True)
class Overlay:
    """The tree `main`, with the root of `other` as the folder `name` in its root."""

    main: Tree
    name: str
    other: Tree

    def folders(self, name: str) -> list[str]:
        tree, below = self._find(name)
        return sorted([*tree.folders(below), *([] if name else [self.name])])

    def files(self, name: str) -> list[str]:
        tree, below = self._find(name)
        return tree.files(below)

    def size(self, name: str) -> int:
        tree, below = self._find(name)
        return tree.size(below)

    def stamp(self, name: str) -> int:
        tree, below = self._find(name)
        return tree.stamp(below)

    def read(self, name: str) -> bytes:
        tree, below = self._find(name)
        return tree.read(below)

    def below(self, name: str) -> Tree:
        tree, below = self._find(name)
        return tree.below(below) if name else self

    def show(self, name: str) -> str:
        tree, below = self._find(name)
        return tree.show(below)

    def _find(self, name: str) -> tuple[Tree, str]:
        first, _, rest = name.partition("/")
        return (self.other, rest) if first == self.name else (self.main, name)
