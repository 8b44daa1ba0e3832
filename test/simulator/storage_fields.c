/*
 * storage_fields.c
 *		Partial responses: "fields=items(name,size),nextPageToken".
 *
 * A name that no resource has is refused, as the service does: a misspelt
 * selection must not look like an empty list.
 */
#include "storage.h"

typedef struct Mask
{
	char	   *name;
	struct Mask *inner;			/* NULL: all of it */
	struct Mask *next;
} Mask;

static const char *const known[] = {
	"kind", "items", "prefixes", "nextPageToken", "id", "selfLink", "mediaLink", "name", "bucket",
	"generation", "metageneration", "contentType", "storageClass", "size", "md5Hash", "crc32c",
	"etag", "timeCreated", "updated", "timeStorageClassUpdated", "timeFinalized", "metadata",
	"componentCount", "contentEncoding", "timeDeleted", "projectNumber", "location",
	"locationType", "owner", "acl", "cacheControl", "contentDisposition", "contentLanguage",
	"customTime", "kmsKeyName", "*", NULL
};

static void
mask_free(Mask *m)
{
	while (m != NULL)
	{
		Mask	   *next = m->next;

		mask_free(m->inner);
		free(m->name);
		free(m);
		m = next;
	}
}

/* A list up to its end or a closing parenthesis; false where it is malformed. */
static bool
mask_read(const char **p, Mask **list, int depth)
{
	for (;;)
	{
		size_t		len = strcspn(*p, ",/()");
		Mask	   *m;
		int			i;

		if (len == 0 || depth > 10)
			return false;
		m = *list = xcalloc(sizeof(Mask));
		m->name = xstrndup(*p, len);
		*p += len;
		for (i = 0; known[i] != NULL && strcmp(known[i], m->name) != 0; i++)
			;
		if (known[i] == NULL)
			return false;
		if (**p == '/')
		{
			Mask	  **inner = &m->inner;

			(*p)++;
			len = strcspn(*p, ",/()");
			*inner = xcalloc(sizeof(Mask));
			(*inner)->name = xstrndup(*p, len);
			*p += len;
			if (len == 0)
				return false;
		}
		else if (**p == '(')
		{
			(*p)++;
			if (!mask_read(p, &m->inner, depth + 1) || **p != ')')
				return false;
			(*p)++;
		}
		if (**p != ',')
			return **p == '\0' || (**p == ')' && depth > 0);
		(*p)++;
		list = &m->next;
	}
}

static void
mask_apply(cJSON *json, const Mask *mask)
{
	cJSON	   *c = json->child;

	while (c != NULL)
	{
		cJSON	   *next = c->next;
		const Mask *m = mask;

		if (cJSON_IsArray(json))
			mask_apply(c, mask);
		else
		{
			while (m != NULL && strcmp(m->name, "*") != 0 && strcmp(m->name, c->string) != 0)
				m = m->next;
			if (m == NULL)
				cJSON_Delete(cJSON_DetachItemViaPointer(json, c));
			else if (m->inner != NULL)
				mask_apply(c, m->inner);
		}
		c = next;
	}
}

bool
fields_apply(cJSON *json, const char *fields, GError *e)
{
	const char *p = fields;
	Mask	   *mask = NULL;
	bool		ok = mask_read(&p, &mask, 0);

	if (ok)
		mask_apply(json, mask);
	else
		storage_error(e, 400, "invalidParameter", "Invalid field selection %.200s", fields);
	mask_free(mask);
	return ok;
}
