/*-------------------------------------------------------------------------
 *
 * spool.c
 *		Request and result files while they travel.
 *
 * Files lie in <spool>/<database OID>/ and are called <job>-<batch>.requests
 * and <job>-<batch>.results.<n>, readable by the server's user alone.  The
 * ledger knows how many bytes of a request file are committed; what a crash
 * left behind that is cut off by the next write.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/file_perm.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "port/pg_crc32c.h"
#include "storage/fd.h"
#include "utils/memutils.h"
#include "utils/wait_event.h"

#include "runtime/guc.h"
#include "runtime/spool.h"

#define READ_CHUNK		(256 * 1024)
/* no line of ours is longer; a file without newlines must not take all memory */
#define MAX_LINE		(256 * 1024 * 1024)

struct SpoolReader
{
	File		file;			/* -1: none */
	char	   *buffer;
	size_t		capacity;
	size_t		start;			/* first byte not handed out */
	size_t		filled;
	int64		offset;			/* of buffer[start] in the file */
	bool		skipping;		/* inside a line that is too long */
	char	   *path;
	MemoryContextCallback callback;
};

/*
 * What is wrong with a file here passes and is repeated: a permission that is
 * missing is not the user's, and must not end his job.
 */
int
spool_errcode(void)
{
	errcode_for_file_access();
	if (ERRCODE_TO_CATEGORY(geterrcode()) != ERRCODE_INSUFFICIENT_RESOURCES)
		errcode(ERRCODE_IO_ERROR);
	return 0;
}

static char *
database_directory(Oid database)
{
	return psprintf("%s/%u", dess_spool_directory[0] != '\0' ? dess_spool_directory : "dess_batch",
					database);
}

/* Directory of this database. */
static char *
spool_directory(void)
{
	return database_directory(MyDatabaseId);
}

/* Makes it and the one above, unless they are there. */
static void
spool_make_directory(int elevel)
{
	char	   *path = spool_directory();
	char	   *base = pstrdup(path);

	get_parent_directory(base);
	if (mkdir(base, S_IRWXU) < 0 && errno != EEXIST)
		ereport(elevel,
				(spool_errcode(),
				 errmsg("could not create directory \"%s\": %m", base)));
	if (mkdir(path, S_IRWXU) < 0 && errno != EEXIST)
		ereport(elevel,
				(spool_errcode(),
				 errmsg("could not create directory \"%s\": %m", path)));
}

char *
spool_path(int64 job_id, int batch_no, SpoolKind kind, int number)
{
	char	   *directory = spool_directory();

	/* who then opens a file there can say what is wrong */
	spool_make_directory(DEBUG1);
	if (kind == SPOOL_REQUESTS)
		return psprintf("%s/" INT64_FORMAT "-%d.requests", directory, job_id, batch_no);
	return psprintf("%s/" INT64_FORMAT "-%d.results.%d", directory, job_id, batch_no, number);
}

int64
spool_length(const char *path)
{
	struct stat st;

	if (stat(path, &st) < 0)
	{
		if (errno == ENOENT)
			return -1;
		ereport(ERROR,
				(spool_errcode(),
				 errmsg("could not stat file \"%s\": %m", path)));
	}
	return st.st_size;
}

static int
spool_open_transient(const char *path, int flags)
{
	int			fd = OpenTransientFilePerm(path, flags | PG_BINARY, S_IRUSR | S_IWUSR);

	if (fd < 0)
		ereport(ERROR,
				(spool_errcode(),
				 errmsg("could not open file \"%s\": %m", path)));
	return fd;
}

static void
spool_close_transient(const char *path, int fd)
{
	if (CloseTransientFile(fd) != 0)
		ereport(ERROR,
				(spool_errcode(),
				 errmsg("could not close file \"%s\": %m", path)));
}

void
spool_write(const char *path, int64 offset, const char *data, size_t length)
{
	int			fd;

	spool_make_directory(ERROR);
	fd = spool_open_transient(path, O_RDWR | O_CREAT);
	if (ftruncate(fd, offset) < 0)
		ereport(ERROR,
				(spool_errcode(),
				 errmsg("could not truncate file \"%s\": %m", path)));
	while (length > 0)
	{
		ssize_t		written;

		errno = 0;
		written = pg_pwrite(fd, data, length, offset);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			/* if write didn't set errno, assume problem is no disk space */
			if (errno == 0)
				errno = ENOSPC;
			ereport(ERROR,
					(spool_errcode(),
					 errmsg("could not write to file \"%s\": %m", path)));
		}
		data += written;
		offset += written;
		length -= written;
	}
	spool_close_transient(path, fd);
}

void
spool_sync(const char *path)
{
	int			fd = spool_open_transient(path, O_RDWR);

	if (pg_fsync(fd) != 0)
		ereport(ERROR,
				(spool_errcode(),
				 errmsg("could not fsync file \"%s\": %m", path)));
	spool_close_transient(path, fd);
}

void
spool_truncate(const char *path, int64 length)
{
	int			fd;

	spool_make_directory(ERROR);
	fd = spool_open_transient(path, O_RDWR | O_CREAT);
	if (ftruncate(fd, length) < 0)
		ereport(ERROR,
				(spool_errcode(),
				 errmsg("could not truncate file \"%s\": %m", path)));
	spool_close_transient(path, fd);
}

uint32
spool_crc32c(const char *path, int64 from, int64 length, uint32 before)
{
	int			fd = spool_open_transient(path, O_RDONLY);
	char	   *buffer = palloc(READ_CHUNK);
	pg_crc32c	crc = before ^ 0xFFFFFFFF;

	while (length > 0)
	{
		ssize_t		got = pg_pread(fd, buffer, Min(length, READ_CHUNK), from);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			ereport(ERROR,
					(spool_errcode(),
					 errmsg("could not read file \"%s\": %m", path)));
		if (got == 0)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("file \"%s\" is shorter than it should be", path)));
		COMP_CRC32C(crc, buffer, got);
		from += got;
		length -= got;
	}
	FIN_CRC32C(crc);
	spool_close_transient(path, fd);
	return crc;
}

static void
spool_unlink(const char *path)
{
	if (unlink(path) < 0 && errno != ENOENT)
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not remove file \"%s\": %m", path)));
}

/*
 * Calls visit for every file of this database's spool whose name is ours.
 * What is in the way is logged, not raised: files are removed outside of
 * transactions as well.
 */
static void
spool_visit(void (*visit) (const char *path, int64 job_id, int batch_no, void *arg), void *arg)
{
	char	   *directory = spool_directory();
	DIR		   *dir = AllocateDir(directory);
	struct dirent *entry;

	if (dir == NULL && errno == ENOENT)
		return;
	while ((entry = ReadDirExtended(dir, directory, LOG)) != NULL)
	{
		long long	job_id;
		int			batch_no;
		char		path[MAXPGPATH];

		if (sscanf(entry->d_name, "%lld-%d.", &job_id, &batch_no) != 2)
			continue;
		snprintf(path, sizeof(path), "%s/%s", directory, entry->d_name);
		visit(path, job_id, batch_no, arg);
	}
	if (dir != NULL)
		FreeDir(dir);
}

typedef struct RemoveArg
{
	int64		job_id;
	int			batch_no;
} RemoveArg;

static void
spool_remove_visit(const char *path, int64 job_id, int batch_no, void *arg)
{
	RemoveArg  *which = (RemoveArg *) arg;

	if (job_id == which->job_id && batch_no == which->batch_no)
		spool_unlink(path);
}

void
spool_remove_batch(int64 job_id, int batch_no)
{
	RemoveArg	which;

	which.job_id = job_id;
	which.batch_no = batch_no;
	spool_visit(spool_remove_visit, &which);
}

void
spool_remove_database(Oid database)
{
	char	   *path = database_directory(database);
	struct stat st;

	if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode))
		(void) rmtree(path, true);
}

typedef struct SweepArg
{
	bool		(*keep) (int64 job_id, int batch_no);
	int64		bytes;
} SweepArg;

static void
spool_sweep_visit(const char *path, int64 job_id, int batch_no, void *arg)
{
	SweepArg   *sweep = (SweepArg *) arg;
	struct stat st;

	if (!sweep->keep(job_id, batch_no))
		spool_unlink(path);
	else if (stat(path, &st) == 0)
		sweep->bytes += st.st_size;
}

int64
spool_sweep(bool (*keep) (int64 job_id, int batch_no))
{
	SweepArg	sweep;

	sweep.keep = keep;
	sweep.bytes = 0;
	spool_visit(spool_sweep_visit, &sweep);
	return sweep.bytes;
}

/* ---- notes of a worker that ends for the next one ---- */

#define CULPRIT_NOTE		"ended_by"
#define START_ERROR_NOTE	"start_error"

static char *
note_path(const char *name)
{
	return psprintf("%s/%s", spool_directory(), name);
}

static void
write_note(const char *name, const char *text)
{
	char	   *path = note_path(name);
	int			length = strlen(text);
	int			fd;

	spool_make_directory(LOG);
	fd = BasicOpenFilePerm(path, O_WRONLY | O_CREAT | O_TRUNC | PG_BINARY, S_IRUSR | S_IWUSR);
	if (fd < 0 || write(fd, text, length) != length)
		ereport(LOG,
				(spool_errcode(),
				 errmsg("could not write file \"%s\": %m", path)));
	if (fd >= 0)
		close(fd);
}

/* NULL if there is none. */
static char *
read_note(const char *name)
{
	char		text[1024];
	int			fd = BasicOpenFile(note_path(name), O_RDONLY | PG_BINARY);
	ssize_t		length;

	if (fd < 0)
		return NULL;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	return pnstrdup(text, Max(length, 0));
}

void
spool_note_culprit(int64 job_id)
{
	write_note(CULPRIT_NOTE, psprintf(INT64_FORMAT "\n", job_id));
}

int64
spool_culprit(void)
{
	char	   *note = read_note(CULPRIT_NOTE);

	return note != NULL ? strtoll(note, NULL, 10) : 0;
}

void
spool_forget_culprit(void)
{
	spool_unlink(note_path(CULPRIT_NOTE));
}

void
spool_note_start_error(const char *message)
{
	write_note(START_ERROR_NOTE, message);
}

char *
spool_start_error(void)
{
	return read_note(START_ERROR_NOTE);
}

void
spool_forget_start_error(void)
{
	spool_unlink(note_path(START_ERROR_NOTE));
}

/* ---- reading lines ---- */

static void
spool_reader_reset(void *arg)
{
	spool_close((SpoolReader *) arg);
}

/*
 * Not a transient file: a reader outlives transactions, and belongs to its
 * memory context instead.  A virtual descriptor: hundreds of jobs have readers,
 * and the real ones are needed for connections.
 */
SpoolReader *
spool_open(const char *path, int64 offset)
{
	SpoolReader *reader = palloc0(sizeof(SpoolReader));

	reader->file = -1;
	reader->path = pstrdup(path);
	reader->offset = offset;
	reader->capacity = READ_CHUNK;
	reader->buffer = palloc(reader->capacity);
	reader->callback.func = spool_reader_reset;
	reader->callback.arg = reader;
	MemoryContextRegisterResetCallback(CurrentMemoryContext, &reader->callback);

	reader->file = PathNameOpenFile(path, O_RDONLY | PG_BINARY);
	if (reader->file < 0)
		ereport(ERROR,
				(spool_errcode(),
				 errmsg("could not open file \"%s\": %m", path)));
	return reader;
}

void
spool_close(SpoolReader *reader)
{
	if (reader->file >= 0)
		FileClose(reader->file);
	reader->file = -1;
}

/* Reads more behind what is in the buffer; false at the end of the file. */
static bool
spool_fill(SpoolReader *reader)
{
	int			got;

	if (reader->start > 0)
	{
		memmove(reader->buffer, reader->buffer + reader->start, reader->filled - reader->start);
		reader->filled -= reader->start;
		reader->start = 0;
	}
	if (reader->filled == reader->capacity)
	{
		reader->capacity *= 2;
		reader->buffer = repalloc_huge(reader->buffer, reader->capacity);
	}
	got = FileRead(reader->file, reader->buffer + reader->filled, Min(reader->capacity - reader->filled, PG_INT32_MAX),
				   reader->offset + reader->filled, WAIT_EVENT_BUFFILE_READ);
	if (got < 0)
		ereport(ERROR,
				(spool_errcode(),
				 errmsg("could not read file \"%s\": %m", reader->path)));
	reader->filled += got;
	return got > 0;
}

/* The end of a line that was too long stands for it as text that nobody takes for a result. */
static char *
spool_whole_line(SpoolReader *reader, char *line, size_t *length)
{
	if (!reader->skipping)
		return line;
	reader->skipping = false;
	*length = 1;
	return "?";
}

char *
spool_next_line(SpoolReader *reader, size_t *length, bool whole_file)
{
	size_t		searched = reader->start;

	for (;;)
	{
		char	   *newline = memchr(reader->buffer + searched, '\n', reader->filled - searched);
		char	   *line;

		if (newline != NULL)
		{
			line = reader->buffer + reader->start;
			*length = newline - line;
			reader->start += *length + 1;
			reader->offset += *length + 1;
			return spool_whole_line(reader, line, length);
		}
		if (reader->filled - reader->start >= MAX_LINE)
		{
			reader->skipping = true;
			reader->offset += reader->filled - reader->start;
			reader->start = reader->filled;
		}
		searched = reader->filled - reader->start;
		if (!spool_fill(reader))
			break;
	}

	if (!whole_file || (reader->filled == reader->start && !reader->skipping))
		return NULL;
	*length = reader->filled - reader->start;
	reader->start = reader->filled;
	reader->offset += *length;
	return spool_whole_line(reader, reader->buffer + reader->start - *length, length);
}

int64
spool_offset(const SpoolReader *reader)
{
	return reader->offset;
}

/* ---- files that grow for long ---- */

void
spool_create(const char *path)
{
	int			fd = BasicOpenFilePerm(path, O_RDWR | O_CREAT | PG_BINARY, S_IRUSR | S_IWUSR);

	if (fd < 0)
		ereport(ERROR,
				(spool_errcode(),
				 errmsg("could not open file \"%s\": %m", path)));
	(void) close(fd);
}

bool
spool_write_at(const char *path, int64 offset, const char *data, size_t length)
{
	int			fd = BasicOpenFile(path, O_RDWR | PG_BINARY);
	size_t		done = 0;

	if (fd < 0)
		return false;
	while (done < length)
	{
		ssize_t		written;
		int			why;

		errno = 0;
		written = pg_pwrite(fd, data + done, length - done, offset + done);
		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
		{
			why = errno != 0 ? errno : ENOSPC;
			(void) close(fd);
			errno = why;
			return false;
		}
		done += written;
	}
	return close(fd) == 0;
}
