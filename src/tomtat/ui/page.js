() => {
  // What scrolls in Gradio's chat can't be reached by keyboard otherwise.
  const reach = () => document.querySelectorAll(".bubble-wrap:not([tabindex])").forEach((one) => (one.tabIndex = 0));
  new MutationObserver(reach).observe(document.body, { childList: true, subtree: true });
  reach();

  // Gradio would tell of a lost connection, and try again for ever.
  const ask = window.fetch;
  window.fetch = async (...given) => {
    const answer = await ask(...given);
    if (answer.status === 401) window.location.assign("sign-in?over");
    return answer;
  };
}
