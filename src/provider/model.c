/*-------------------------------------------------------------------------
 *
 * model.c
 *		Names of models: what one may look like.
 *
 * A name is matched against a server's globs, looked up in the table of prices
 * and sent to the provider.  All three must see the same model, so a name that
 * an address could read otherwise ("..", an empty segment, "?") is refused.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "provider/provider.h"

/* Segments between slashes are neither empty nor "." or "..", and no character has a meaning in an address. */
static bool
is_well_formed(const char *model)
{
	const char *p = model;

	do
	{
		size_t		length = strcspn(p, "/");

		if (length == 0 || (p[0] == '.' && (length == 1 || (length == 2 && p[1] == '.'))))
			return false;
		for (size_t i = 0; i < length; i++)
		{
			if ((unsigned char) p[i] <= ' ' || p[i] == 0x7F || strchr("?#%\\", p[i]) != NULL)
				return false;
		}
		p += length;
	} while (*p++ == '/');
	return true;
}

const char *
provider_model_problem(const BatchProvider *provider, const char *model)
{
	if (!is_well_formed(model))
		return "a name without blanks and control characters, without \"?\", \"#\", \"%\" and \"\\\", and without empty parts, \".\" or \"..\" between slashes";
	return provider != NULL && provider->check_model != NULL ? provider->check_model(model) : NULL;
}

bool
provider_model_fits(const char *model, const char *pattern)
{
	while (*pattern != '\0')
	{
		if (*pattern == '*')
		{
			size_t		length = strcspn(model, "/");

			if (length == 0)
				return false;
			model += length;
			pattern++;
		}
		else if (*model++ != *pattern++)
			return false;
	}
	return *model == '\0';
}
