"""What is kept of a batch that a server runs as one of its own."""

from pydantic import BaseModel, ConfigDict


class NativeNote(BaseModel):
    """What is known of a batch that a server runs as one of its own: enough for any runner to go on with it.

    Attributes:
        deployment: Whose server; chosen once.
        uploads: How often an upload of the input has begun: more than one may have left a file behind.
        file_id: The server's name for the input; the first one noted is the one that counts.
        file_created_at: When it was made, by the server's clock: its batch is not older.
        batch_id: The server's name for the batch; the first one noted is the one that counts.
        turned_away: How often the server had no room for the batch and ended it at once.
    """

    model_config = ConfigDict(frozen=True)

    deployment: str
    uploads: int = 0
    file_id: str | None = None
    file_created_at: int = 0
    batch_id: str | None = None
    turned_away: int = 0

    def uploading(self) -> "NativeNote":
        if self.file_id is not None:
            return self
        return self.model_copy(update={"uploads": self.uploads + 1})

    def with_file(self, file_id: str, created_at: int) -> "NativeNote":
        if self.file_id is not None:
            return self
        return self.model_copy(update={"file_id": file_id, "file_created_at": created_at})

    def with_batch(self, batch_id: str) -> "NativeNote":
        if self.batch_id is not None:
            return self
        return self.model_copy(update={"batch_id": batch_id})

    def without_batch(self, batch_id: str) -> "NativeNote":
        if self.batch_id != batch_id:
            return self
        return self.model_copy(update={"batch_id": None, "turned_away": self.turned_away + 1})
