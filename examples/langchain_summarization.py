"""Your own model as the summarizer of LangChain's middleware: `pip install langchain langchain-openai tomtat`."""

from common import CHAT_MODEL, KEY, SUMMARIZER, URL, long_chat
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_openai import ChatOpenAI

from tomtat.integrations.langchain import summarizer

model = ChatOpenAI(model=CHAT_MODEL, base_url=URL, api_key=KEY)
summarization = SummarizationMiddleware(
    model=model,
    trigger=("messages", 20),
    keep=("messages", 4),
    summarizer=summarizer(URL, model=SUMMARIZER, api_key=KEY),  # or summarizer("runs/chats"), without a server
    trim_tokens_to_summarize=None,  # by default it sees no more than the newest 4,000 tokens
)
agent = create_agent(model, middleware=[summarization])

state = agent.invoke({"messages": long_chat()[1:]})
print("messages left:", len(state["messages"]))
print("summary:", state["messages"][0].content)
print("answer:", state["messages"][-1].content)
