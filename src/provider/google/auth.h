/*-------------------------------------------------------------------------
 *
 * auth.h
 *		Access tokens of Google.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PROVIDER_GOOGLE_AUTH_H
#define DESS_PROVIDER_GOOGLE_AUTH_H

#include "provider/provider.h"

/*
 * A StageStep: exchanges the account's secret, the JSON text of credentials of
 * any kind, for an access token.
 */
extern void google_authorize(BatchStage *stage, const HttpReply *reply, StepResult *result);

#endif							/* DESS_PROVIDER_GOOGLE_AUTH_H */
