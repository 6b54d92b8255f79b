"""Jobs, their images, and what is told of them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Three tables beside the certificates."""
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("created", sa.Float(53), nullable=False),
        sa.Column("finished", sa.Float(53)),
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("idempotency_key", sa.String(255)),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("last_event", sa.Integer, nullable=False),
        sa.UniqueConstraint("owner", "idempotency_key", name="jobs_idempotency"),
    )
    op.create_table(
        "job_items",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("image", sa.LargeBinary),
        sa.Column("noise_key", sa.String(64)),
        sa.Column("lease", sa.String(64)),
        sa.Column("lease_ends", sa.Float(53)),
        sa.Column("begun", sa.Integer, nullable=False),
        sa.Column("reply", sa.Text),
        sa.Column("problem", sa.Text),
    )
    op.create_table(
        "job_events",
        sa.Column("job_id", sa.String(64), sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("item", sa.Integer),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("jobs_by_status", "jobs", ["status", "created"])
    op.create_index("job_items_by_status", "job_items", ["status"])
