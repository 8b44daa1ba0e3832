/*-------------------------------------------------------------------------
 *
 * gcs.c
 *		Google Cloud Storage, as steps: upload, download, list, delete.
 *
 * An object appears when its last byte is there, never before, and is only
 * made where none is (ifGenerationMatch=0).  So a refusal with 412 means that an
 * earlier try came through, which size and checksum prove.
 *
 * Files go in pieces, up and down.  What the other side has is asked after every
 * interruption and never assumed: it may have stored a part of a piece.  The
 * address of an upload session is a secret; it lives in stage->scratch alone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "provider/body.h"
#include "provider/google/gcs.h"
#include "provider/google/google.h"

#define STORAGE_URL		"https://storage.googleapis.com"
#define RESTARTS		3		/* sessions and downloads begun anew within one step */
#define STALLS			7		/* replies in a row that brought nothing */

static const char *
storage_url(const Account *account)
{
	const char *url = account_option(account, "storage_url");
	size_t		length;

	if (url == NULL)
		return STORAGE_URL;
	for (length = strlen(url); length > 0 && url[length - 1] == '/'; length--)
		;
	return pnstrdup(url, length);
}

/* A request for path below the storage's address; "%b" and "%o" stand for bucket and object. */
static void
ask(BatchStage *stage, StepResult *result, const char *method, const char *path, const char *bucket, const char *name)
{
	StringInfoData url;

	initStringInfo(&url);
	appendStringInfoString(&url, storage_url(stage->account));
	for (; *path != '\0'; path++)
	{
		if (path[0] == '%' && (path[1] == 'b' || path[1] == 'o'))
			google_append_escaped(&url, *++path == 'b' ? bucket : name, "");
		else
			appendStringInfoChar(&url, *path);
	}
	step_request(result, method, url.data);
	google_add_token(stage->account, &result->request);
}

void
gcs_ask_list(BatchStage *stage, StepResult *result, const char *bucket, const char *prefix, const char *page)
{
	StringInfoData query;

	ask(stage, result, "GET", "/storage/v1/b/%b/o?fields=items(name,size),nextPageToken&prefix=%o", bucket, prefix);
	if (page[0] == '\0')
		return;
	initStringInfo(&query);
	appendStringInfo(&query, "%s&pageToken=", result->request.url);
	google_append_escaped(&query, page, "");
	result->request.url = query.data;
}

void
gcs_ask_delete(BatchStage *stage, StepResult *result, const char *bucket, const char *name, const char *generation)
{
	ask(stage, result, "DELETE", "/storage/v1/b/%b/o/%o", bucket, name);
	if (generation != NULL)
		result->request.url = psprintf("%s?ifGenerationMatch=%s", result->request.url, generation);
}

void
gcs_ask_small_upload(BatchStage *stage, StepResult *result, const char *bucket, const char *name, const char *content)
{
	ask(stage, result, "POST", "/upload/storage/v1/b/%b/o?uploadType=media&name=%o", bucket, name);
	result->request.body = content;
	result->request.body_length = strlen(content);
	step_header(result, "Content-Type", "text/plain");
}

static void
ask_object(BatchStage *stage, StepResult *result, const char *bucket, const char *name)
{
	ask(stage, result, "GET", "/storage/v1/b/%b/o/%o?fields=size,generation,crc32c,contentEncoding", bucket, name);
}

/* What an object's description says. */
typedef struct GcsObject
{
	int64		size;			/* -1: not said */
	char	   *generation;		/* NULL: not said */
	char	   *crc32c;
	bool		encoded;		/* what is downloaded may be other bytes */
} GcsObject;

/* False if the reply is no object. */
static bool
read_object(const HttpReply *reply, GcsObject *object)
{
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);
	const char *encoding = json_member_string(root, "contentEncoding");
	bool		good = json_is_object(root);
	int64		generation;

	memset(object, 0, sizeof(GcsObject));
	object->size = json_member_int64(root, "size", -1);
	if (json_int64(json_member(root, "generation"), &generation))
		object->generation = psprintf(INT64_FORMAT, generation);
	object->crc32c = body_read_id(root, "crc32c");
	object->encoded = (encoding != NULL && encoding[0] != '\0' && pg_strcasecmp(encoding, "identity") != 0);
	json_free(doc);
	return good;
}

/* ---- upload ---- */

enum
{
	UPLOAD_BEGIN,
	UPLOAD_LOOKING,				/* at what may be there already */
	UPLOAD_MEASURING,
	UPLOAD_STARTING,
	UPLOAD_SENDING,
	UPLOAD_ASKING,				/* how much has arrived */
	UPLOAD_REMOVING				/* what is there and is not ours */
};

/* Where an upload is; kept as text in stage->scratch. */
typedef struct Upload
{
	int64		offset;			/* what the server has */
	int			restarts;
	bool		looked;			/* what was there before is known */
	const char *session;		/* or, while removing, the generation */
} Upload;

static void
upload_load(const BatchStage *stage, Upload *upload)
{
	long long	offset = 0;
	int			looked = 0;
	int			length = 0;

	memset(upload, 0, sizeof(Upload));
	if (stage->scratch != NULL)
		sscanf(stage->scratch, "%lld %d %d %n", &offset, &upload->restarts, &looked, &length);
	upload->offset = offset;
	upload->looked = (looked != 0);
	upload->session = length > 0 ? stage->scratch + length : "";
}

static void
upload_save(BatchStage *stage, const Upload *upload)
{
	stage->scratch = psprintf("%lld %d %d %s", (long long) upload->offset, upload->restarts,
							  upload->looked ? 1 : 0, upload->session);
}

static void
upload_ask_session(BatchStage *stage, StepResult *result, const char *bucket, const char *name)
{
	stage->phase = UPLOAD_STARTING;
	ask(stage, result, "POST", "/upload/storage/v1/b/%b/o?uploadType=resumable&ifGenerationMatch=0&name=%o", bucket, name);
	step_json_body(result, psprintf("{\"contentType\":\"application/jsonl\",\"crc32c\":\"%s\"}",
									gcs_crc32c_text(stage->checksum)));
	step_header(result, "X-Upload-Content-Type", "application/jsonl");
	step_header(result, "X-Upload-Content-Length", psprintf(INT64_FORMAT, stage->spool_length));
}

/* The next piece, or the question where the last one ended. */
static void
upload_put(BatchStage *stage, StepResult *result, bool question)
{
	Upload		upload;
	int64		length;
	int64		total = stage->spool_length;

	upload_load(stage, &upload);
	stage->phase = question ? UPLOAD_ASKING : UPLOAD_SENDING;
	length = question ? 0 : Min(total - upload.offset, GCS_CHUNK);
	step_request(result, "PUT", upload.session);
	if (provider_same_origin(upload.session, storage_url(stage->account)))
		google_add_token(stage->account, &result->request);
	if (length == 0)
	{
		result->request.body = "";
		step_header(result, "Content-Range", psprintf("bytes */" INT64_FORMAT, total));
		return;
	}
	result->request.body_file = stage->spool_file;
	result->request.body_offset = upload.offset;
	result->request.body_file_length = length;
	step_header(result, "Content-Range", psprintf("bytes " INT64_FORMAT "-" INT64_FORMAT "/" INT64_FORMAT,
												  upload.offset, upload.offset + length - 1, total));
	if (upload.offset + length == total)
		step_header(result, "X-Goog-Hash", psprintf("crc32c=%s", gcs_crc32c_text(stage->checksum)));
}

static void
upload_ask(BatchStage *stage, StepResult *result, const char *bucket, const char *name)
{
	Upload		upload;

	upload_load(stage, &upload);
	switch (stage->phase)
	{
		case UPLOAD_BEGIN:
			stage->phase = UPLOAD_MEASURING;
			step_checksum(result, stage->spool_file, stage->spool_length);
			break;
		case UPLOAD_MEASURING:
			if (stage->resumed && !upload.looked)
			{
				stage->phase = UPLOAD_LOOKING;
				ask_object(stage, result, bucket, name);
			}
			else
				upload_ask_session(stage, result, bucket, name);
			break;
		case UPLOAD_LOOKING:
			ask_object(stage, result, bucket, name);
			break;
		case UPLOAD_STARTING:
			upload_ask_session(stage, result, bucket, name);
			break;
		case UPLOAD_REMOVING:
			gcs_ask_delete(stage, result, bucket, name, upload.session);
			break;
		default:
			upload_put(stage, result, true);
			break;
	}
}

static void
upload_done(BatchStage *stage, StepResult *result, const char *bucket, const char *name)
{
	stage->remote->input_uri = psprintf("gs://%s/%s", bucket, name);
	step_done(result);
}

/* The whole from the beginning, unless it was tried often enough: then result stays what it is. */
static void
upload_restart(BatchStage *stage, StepResult *result, const char *bucket, const char *name)
{
	Upload		upload;

	upload_load(stage, &upload);
	if (upload.restarts++ >= RESTARTS)
		return;
	upload.offset = 0;
	upload.session = "";
	upload.looked = true;
	upload_save(stage, &upload);
	stage->tries = 0;
	upload_ask_session(stage, result, bucket, name);
}

static bool
is_our_object(const BatchStage *stage, const GcsObject *object)
{
	return object->size == stage->spool_length &&
		(object->crc32c == NULL || strcmp(object->crc32c, gcs_crc32c_text(stage->checksum)) == 0);
}

/* A session was opened, or not. */
static void
upload_take_session(BatchStage *stage, const HttpReply *reply, StepResult *result, const char *bucket, const char *name)
{
	const char *location = http_header(reply, "location");
	Upload		upload;

	if (location == NULL || location[0] == '\0')
	{
		step_fail_http(result, reply);
		return;
	}
	upload_load(stage, &upload);
	upload.offset = 0;
	upload.session = location;
	upload_save(stage, &upload);
	stage->tries = 0;
	upload_put(stage, result, false);
}

/* How much has arrived is known: the next piece follows. */
static void
upload_take_progress(BatchStage *stage, const HttpReply *reply, StepResult *result, const char *bucket, const char *name)
{
	int64		next = gcs_parse_range(http_header(reply, "range"));
	Upload		upload;

	upload_load(stage, &upload);
	if (next > upload.offset)
		stage->tries = 0;
	else if ((stage->phase == UPLOAD_SENDING || next == stage->spool_length) && stage->tries++ >= STALLS)
	{
		step_fail(result, ERROR_TEMPORARY, "no_progress", "the storage does not take the file's next piece");
		return;
	}
	if (next < 0 || next > stage->spool_length)
	{
		step_fail_http(result, reply);
		result->error.class = ERROR_TEMPORARY;
		upload_restart(stage, result, bucket, name);
		return;
	}
	upload.offset = next;
	upload_save(stage, &upload);
	if (next == stage->spool_length && stage->phase == UPLOAD_ASKING)
		step_wait(result, 1000);	/* all of it is there, the object is not yet */
	else
		upload_put(stage, result, next == stage->spool_length);
}

/* The description of what is there: ours, or in the way. */
static void
upload_take_object(BatchStage *stage, const HttpReply *reply, StepResult *result, const char *bucket, const char *name)
{
	bool		looking = (stage->phase == UPLOAD_LOOKING);
	GcsObject	object;
	Upload		upload;

	if (read_object(reply, &object) && is_our_object(stage, &object))
		upload_done(stage, result, bucket, name);
	else if (!looking)
	{
		/* sent, but what was answered does not prove it */
		stage->phase = UPLOAD_LOOKING;
		ask_object(stage, result, bucket, name);
	}
	else if (object.generation == NULL)
		step_fail_http(result, reply);
	else
	{
		upload_load(stage, &upload);
		upload.session = object.generation;
		upload_save(stage, &upload);
		stage->phase = UPLOAD_REMOVING;
		gcs_ask_delete(stage, result, bucket, name, object.generation);
	}
}

/* A status that is no success; result has been set to a failure. */
static void
upload_take_status(BatchStage *stage, const HttpReply *reply, StepResult *result, const char *bucket, const char *name)
{
	bool		in_session = (stage->phase == UPLOAD_SENDING || stage->phase == UPLOAD_ASKING);

	if (in_session && reply->status == 308)
		upload_take_progress(stage, reply, result, bucket, name);
	else if (reply->status == 412 && stage->phase != UPLOAD_REMOVING)
	{
		stage->phase = UPLOAD_LOOKING;
		ask_object(stage, result, bucket, name);
	}
	else if (in_session && (reply->status == 404 || reply->status == 410 || reply->status == 400))
	{
		/* the session is gone, or what arrived was not what was sent */
		result->error.class = ERROR_TEMPORARY;
		upload_restart(stage, result, bucket, name);
	}
	else if ((stage->phase == UPLOAD_LOOKING && reply->status == 404) ||
			 (stage->phase == UPLOAD_REMOVING && (reply->status == 404 || reply->status == 412)))
	{
		result->error.class = ERROR_TEMPORARY;
		upload_restart(stage, result, bucket, name);
	}
}

void
gcs_upload(BatchStage *stage, const char *bucket, const char *name, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL)
	{
		upload_ask(stage, result, bucket, name);
		return;
	}
	switch (google_take_reply(stage, reply, true, result))
	{
		case TURN_GOOD:
			if (stage->phase == UPLOAD_STARTING)
				upload_take_session(stage, reply, result, bucket, name);
			else if (stage->phase == UPLOAD_REMOVING)
			{
				step_fail(result, ERROR_TEMPORARY, "in_the_way", "another object stood in the place of the uploaded file");
				upload_restart(stage, result, bucket, name);
			}
			else
				upload_take_object(stage, reply, result, bucket, name);
			break;
		case TURN_OTHER:
			upload_take_status(stage, reply, result, bucket, name);
			break;
		case TURN_SETTLED:
			break;
	}
}

/* ---- download ---- */

enum
{
	DOWNLOAD_LOOKING,
	DOWNLOAD_READING,
	DOWNLOAD_CHECKING
};

/* Where a download is; kept as text in stage->scratch. */
typedef struct Download
{
	int64		have;			/* bytes that are in the sink */
	int64		size;			/* of the object; -1: not known */
	int			restarts;
	char		generation[32];	/* "-": not known */
	char		crc32c[32];
} Download;

static void
download_load(const BatchStage *stage, Download *download)
{
	long long	have = 0;
	long long	size = -1;

	memset(download, 0, sizeof(Download));
	if (stage->scratch != NULL)
		sscanf(stage->scratch, "%lld %lld %d %31s %31s", &have, &size, &download->restarts,
			   download->generation, download->crc32c);
	download->have = have;
	download->size = size;
}

static void
download_save(BatchStage *stage, const Download *download)
{
	stage->scratch = psprintf("%lld %lld %d %s %s", (long long) download->have, (long long) download->size,
							  download->restarts, download->generation, download->crc32c);
}

/* The rest of the object. */
static void
download_ask(BatchStage *stage, StepResult *result, const char *bucket, const char *name)
{
	Download	download;

	if (stage->phase == DOWNLOAD_LOOKING)
	{
		ask_object(stage, result, bucket, name);
		return;
	}
	download_load(stage, &download);
	ask(stage, result, "GET", "/storage/v1/b/%b/o/%o?alt=media", bucket, name);
	if (strcmp(download.generation, "-") != 0)
		result->request.url = psprintf("%s&generation=%s", result->request.url, download.generation);
	if (download.have > 0)
		step_header(result, "Range", psprintf("bytes=" INT64_FORMAT "-", download.have));
	result->request.sink_file = stage->sink_file;
	result->request.sink_offset = download.have;
}

/* The whole from the beginning, unless it was tried often enough: then result stays what it is. */
static void
download_restart(BatchStage *stage, StepResult *result, const char *bucket, const char *name)
{
	Download	download;

	download_load(stage, &download);
	if (download.restarts++ >= RESTARTS)
		return;
	download.have = 0;
	download_save(stage, &download);
	stage->tries = 0;
	stage->phase = DOWNLOAD_READING;
	download_ask(stage, result, bucket, name);
}

static void
download_take_object(BatchStage *stage, const HttpReply *reply, StepResult *result, const char *bucket, const char *name)
{
	Download	download;
	GcsObject	object;

	if (!read_object(reply, &object))
	{
		step_fail_http(result, reply);
		return;
	}
	download_load(stage, &download);
	download.have = 0;
	download.size = object.encoded ? -1 : object.size;
	strlcpy(download.generation, object.generation ? object.generation : "-", sizeof(download.generation));
	strlcpy(download.crc32c, object.crc32c && !object.encoded ? object.crc32c : "-", sizeof(download.crc32c));
	download_save(stage, &download);
	stage->phase = DOWNLOAD_READING;
	stage->tries = 0;
	download_ask(stage, result, bucket, name);
}

/*
 * Counts what a reply, whole or cut, has put into the sink.  False if that is
 * not what belongs there.
 */
static bool
download_count(BatchStage *stage, const HttpReply *reply, Download *download)
{
	int64		first;
	int64		last;
	int64		total;

	if (reply->sink_length == 0)
		return reply->status != 200 || download->have == 0;
	if (reply->status == 206)
	{
		if (!gcs_parse_content_range(http_header(reply, "content-range"), &first, &last, &total) ||
			first != download->have || reply->sink_length > last - first + 1 ||
			(total >= 0 && download->size >= 0 && total != download->size))
			return false;
	}
	else if (reply->status != 200 || download->have > 0)
		return false;			/* the whole, although a range was asked for */
	download->have += reply->sink_length;
	stage->tries = 0;
	return download->size < 0 || download->have <= download->size;
}

/* A reply has ended well: is this all, and is it right? */
static void
download_take_end(BatchStage *stage, StepResult *result, const Download *download, const char *bucket, const char *name)
{
	if (download->size >= 0 && download->have < download->size)
	{
		if (stage->tries++ < STALLS)
			download_ask(stage, result, bucket, name);
		else
			step_fail(result, ERROR_TEMPORARY, "no_progress", "the storage does not send the rest of the object");
	}
	else if (strcmp(download->crc32c, "-") != 0)
	{
		stage->phase = DOWNLOAD_CHECKING;
		step_checksum(result, stage->sink_file, download->have);
	}
	else
		step_done(result);
}

/* A reply to a request for bytes. */
static void
download_take_bytes(BatchStage *stage, const HttpReply *reply, StepResult *result, const char *bucket, const char *name)
{
	Download	download;

	download_load(stage, &download);
	if (!download_count(stage, reply, &download))
	{
		step_fail(result, ERROR_TEMPORARY, CODE_BAD_REPLY, "the storage sent other bytes than those asked for");
		download_restart(stage, result, bucket, name);
		return;
	}
	download_save(stage, &download);
	switch (google_take_reply(stage, reply, true, result))
	{
		case TURN_GOOD:
			download_take_end(stage, result, &download, bucket, name);
			break;
		case TURN_OTHER:
			if (reply->status == 416)
			{
				result->error.class = ERROR_TEMPORARY;
				download_restart(stage, result, bucket, name);
			}
			else if (reply->status == 404)
				google_fail_look(result, reply);
			break;
		case TURN_SETTLED:
			break;
	}
}

void
gcs_download(BatchStage *stage, const char *bucket, const char *name, const HttpReply *reply, StepResult *result)
{
	Download	download;

	if (reply == NULL && stage->phase == DOWNLOAD_CHECKING)
	{
		download_load(stage, &download);
		if (strcmp(download.crc32c, gcs_crc32c_text(stage->checksum)) == 0)
		{
			step_done(result);
			return;
		}
		step_fail(result, ERROR_TEMPORARY, "checksum", "what was downloaded does not have the object's checksum");
		download_restart(stage, result, bucket, name);
	}
	else if (reply == NULL)
		download_ask(stage, result, bucket, name);
	else if (stage->phase == DOWNLOAD_READING)
		download_take_bytes(stage, reply, result, bucket, name);
	else
	{
		switch (google_take_reply(stage, reply, true, result))
		{
			case TURN_GOOD:
				download_take_object(stage, reply, result, bucket, name);
				break;
			case TURN_OTHER:
				google_fail_look(result, reply);
				break;
			case TURN_SETTLED:
				break;
		}
	}
}
