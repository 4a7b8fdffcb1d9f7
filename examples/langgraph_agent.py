"""A LangGraph agent with a tool and a checkpointer, behind the memory: `pip install langgraph langchain-openai`."""

from common import CHAT_MODEL, KEY, URL, long_chat
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition


@tool
def order_status(of: str) -> str:
    """Where an order is."""
    return f"{of} is on its way back to us."


model = ChatOpenAI(model=CHAT_MODEL, base_url=URL, api_key=KEY).bind_tools([order_status])


def chatbot(state: MessagesState, config: RunnableConfig) -> dict:
    # The thread is the conversation, so that two threads that begin alike stay two.
    headers = {"X-Conversation-Id": config["configurable"]["thread_id"], "X-Memory-Budget": "400"}
    return {"messages": [model.invoke(state["messages"], extra_headers=headers)]}


graph = StateGraph(MessagesState)
graph.add_node("chatbot", chatbot)
graph.add_node("tools", ToolNode([order_status]))
graph.add_edge(START, "chatbot")
graph.add_conditional_edges("chatbot", tools_condition)
graph.add_edge("tools", "chatbot")
agent = graph.compile(checkpointer=InMemorySaver())

thread = {"configurable": {"thread_id": "thread-1"}}
agent.invoke({"messages": long_chat()}, thread)
state = agent.invoke({"messages": [{"role": "user", "content": "Please look up where order LM-48213 is."}]}, thread)
print("messages in the state:", len(state["messages"]))
print("tool said:", state["messages"][-2].content)
print("answer:", state["messages"][-1].content)
