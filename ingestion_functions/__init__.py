"""The Azure Functions app: thin triggers over intake, register, analyse and sweep."""
