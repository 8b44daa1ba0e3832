# The providers: their pure files as client code, like all other modules, and
# their steps compiled for the backend, over lists that backend_stubs.c makes.
# The registry names them all, so each test of steps is linked with all.

PROVIDER_PURE = $(patsubst %,$(BUILD)/%.o,provider_error provider_body openai_body openai_reply \
	gemini_body gemini_reply gemini_schema google_key gcs_range)
PROVIDER_STEPS = $(patsubst %,$(BUILD)/backend_%.o,provider provider_openai openai_object \
	provider_gemini provider_vertex google_request google_auth gcs backend_stubs)

$(BUILD)/test_openai $(BUILD)/test_gemini $(BUILD)/test_google_key: $(PROVIDER_PURE) $(BUILD)/reply_stubs.o
$(BUILD)/test_openai_steps $(BUILD)/test_gemini_steps $(BUILD)/test_vertex_steps $(BUILD)/test_google_auth: \
	$(PROVIDER_PURE) $(PROVIDER_STEPS) $(BUILD)/reply_stubs.o
$(BUILD)/test_gemini_steps $(BUILD)/test_vertex_steps $(BUILD)/test_google_auth: $(BUILD)/backend_google_play.o

$(BUILD)/backend_%.o: $(SRC)/%.c $(wildcard $(SRC)/*.h) | $(BUILD)
	$(CC) $(filter-out -DFRONTEND,$(CPPFLAGS)) $(CFLAGS) -c -o $@ $<

$(BUILD)/backend_%.o: %.c $(wildcard $(SRC)/*.h) | $(BUILD)
	$(CC) $(filter-out -DFRONTEND,$(CPPFLAGS)) $(CFLAGS) -c -o $@ $<
