"""The check that the rows of a batch divide over micro-batches and over the devices that share them."""

from jax.sharding import Mesh


def check_rows(name: str, rows: int, micro_batches: int, mesh: Mesh) -> None:
    """Raise ValueError unless each micro-batch of `rows` / `micro_batches` rows divides over the data axes of the mesh.

    name: of the settings section, such as 'sft'. Without this check XLA would silently run rows that do not divide on
    every device: the result would be the same, at a multiple of the cost.
    """
    if rows < 1 or micro_batches < 1:
        raise ValueError(f"{name}.rows={rows}, {name}.micro_batches={micro_batches}: both are at least 1")
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    unit = shards * micro_batches
    if rows % unit:
        near = sorted({max(unit, rows // unit * unit), -(-rows // unit) * unit})
        raise ValueError(
            f"{name}.rows={rows} does not divide into {micro_batches} micro-batches over {shards} devices "
            f"(mesh data={mesh.shape['data']} x fsdp={mesh.shape['fsdp']}): set {name}.rows to "
            f"{' or '.join(map(str, near))}, or change {name}.micro_batches or the mesh"
        )
