"""OpenAI's endpoints: models, completions, chat completions, and the tokenizer's as vLLM has them."""
