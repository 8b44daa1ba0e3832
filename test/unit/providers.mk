# The providers: their pure files as client code, like all other modules, and
# their steps compiled for the backend, over lists that backend_stubs.c makes.
# The registry names them all, so each test of steps is linked with all.

PROVIDER_PURE = $(patsubst %,$(BUILD)/provider/%.o,error body reply openai/body openai/reply \
	google/body google/reply google/schema google/key google/gcs_range)
PROVIDER_STEPS = $(patsubst %,$(BUILD)/backend/%.o,$(addprefix provider/,builtin model registry step openai/openai openai/object \
	google/gemini google/vertex google/request google/auth google/gcs) backend_stubs)

$(BUILD)/test_openai $(BUILD)/test_gemini $(BUILD)/test_google_key: $(PROVIDER_PURE) $(BUILD)/reply_stubs.o
$(BUILD)/test_openai_steps $(BUILD)/test_gemini_steps $(BUILD)/test_vertex_steps $(BUILD)/test_google_auth: \
	$(PROVIDER_PURE) $(PROVIDER_STEPS) $(BUILD)/reply_stubs.o
$(BUILD)/test_gemini_steps $(BUILD)/test_vertex_steps $(BUILD)/test_google_auth: $(BUILD)/backend/google_play.o

$(BUILD)/backend/%.o: $(SRC)/%.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(filter-out -DFRONTEND,$(CPPFLAGS)) $(CFLAGS) -c -o $@ $<

$(BUILD)/backend/%.o: %.c $(HEADERS)
	@mkdir -p $(@D)
	$(CC) $(filter-out -DFRONTEND,$(CPPFLAGS)) $(CFLAGS) -c -o $@ $<
