# The provider "openai": its pure files as client code, like all other modules,
# and its steps compiled for the backend, over lists that backend_stubs.c makes.

OPENAI_PURE = $(patsubst %,$(BUILD)/%.o,provider_error provider_body openai_body openai_reply)
OPENAI_STEPS = $(patsubst %,$(BUILD)/backend_%.o,provider provider_openai openai_object backend_stubs)

$(BUILD)/test_openai: $(OPENAI_PURE) $(BUILD)/reply_stubs.o
$(BUILD)/test_openai_steps: $(OPENAI_PURE) $(OPENAI_STEPS) $(BUILD)/reply_stubs.o

$(BUILD)/backend_%.o: $(SRC)/%.c $(wildcard $(SRC)/*.h) | $(BUILD)
	$(CC) $(filter-out -DFRONTEND,$(CPPFLAGS)) $(CFLAGS) -c -o $@ $<

$(BUILD)/backend_%.o: %.c $(wildcard $(SRC)/*.h) | $(BUILD)
	$(CC) $(filter-out -DFRONTEND,$(CPPFLAGS)) $(CFLAGS) -c -o $@ $<
